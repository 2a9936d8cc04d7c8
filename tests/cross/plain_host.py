"""A host that has no numpy."""

import sys

import isthmus


@isthmus.export
def describe(x):
    return {
        "type": type(x).__name__,
        "format": x.format,
        "length": len(x),
        "shape": x.shape,
        "readonly": x.readonly,
        "numpy": sys.modules.get("numpy") is not None,
    }


@isthmus.export
def same(x):
    return x
