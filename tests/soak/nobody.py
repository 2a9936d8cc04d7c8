"""A host that exports nothing: its bus is for others, which may be killed without ending it."""
