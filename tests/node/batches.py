"""What tests/node/batches.test.mjs calls."""

import isthmus

performed = 0


@isthmus.export(batch=isthmus.Batch(max=5, wait=600))
def gather(callers):
    """What fills a batch begins it, however slow the machine is. Each call is told its batch, and who is in it."""
    global performed
    performed += 1
    return [{"batch": performed, "callers": callers} for _ in callers]


@isthmus.export
def count():
    return performed
