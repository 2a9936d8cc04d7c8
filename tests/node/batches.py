"""What tests/node/batches.test.mjs calls."""

import isthmus

performed = 0


@isthmus.export(batch=isthmus.Batch(max=5, wait=600))
def gather(callers):
    """Tells each call its batch, and who is in it. Full batches alone begin, however slow the machine is."""
    global performed
    performed += 1
    return [{"batch": performed, "callers": callers} for _ in callers]


@isthmus.export
def count():
    return performed
