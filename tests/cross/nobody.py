"""A host that exports nothing: its bus is for others."""
