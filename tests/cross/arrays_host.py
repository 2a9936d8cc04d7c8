"""Works on arrays."""

import gc
import os

import numpy as np

import isthmus

kept = []


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def total(x):
    return x.sum()


@isthmus.export
def ends(x):
    return [x.nbytes, int(x[0]), int(x[-1])]


@isthmus.export
def same(x):
    return x


@isthmus.export
def next(x):
    return np.add(x, 1, out=isthmus.empty(x.shape, x.dtype))


@isthmus.export
def empty(shape, dtype):
    return isthmus.empty(tuple(shape), dtype)


@isthmus.export
def halved(x):
    return np.floor_divide(x, 2, out=isthmus.empty(x.shape, x.dtype))


@isthmus.export
def overwrite(x):
    x[0] = 1


@isthmus.export
def keep(x):
    kept.append(x)


@isthmus.export
def kept_at(i):
    return kept[-1][i]


@isthmus.export
def kept_total():
    return kept[-1].sum()


@isthmus.export
def drop():
    kept.clear()


@isthmus.export
def collect():
    gc.collect()
