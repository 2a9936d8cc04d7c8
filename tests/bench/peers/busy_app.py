"""Without numpy, which sub-interpreters can't import."""

import isthmus


@isthmus.export
def busy(steps):
    """Pure Python that holds the GIL, for a few milliseconds."""
    total = 0
    for i in range(steps):
        total += i * i % 7
    return total
