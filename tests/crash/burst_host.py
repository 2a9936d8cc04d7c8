"""Takes and gives much at once."""

import os

import numpy as np

import isthmus


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def ones(count):
    return np.ones(count, np.uint8)


@isthmus.export
def total(array):
    return int(array[0])


@isthmus.export
def length(text):
    return len(text)


@isthmus.export
def text(count):
    return "x" * count


@isthmus.export
def stream(count, size):
    for _ in range(count):
        yield np.ones(size, np.uint8)


@isthmus.export
def bytes_of(arrays):
    return sum(array.nbytes for array in arrays)
