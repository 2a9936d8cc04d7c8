import asyncio

import numpy as np

import isthmus


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def total_plus_one(x):
    return x.sum(), np.add(x, 1, out=isthmus.empty(x.shape, x.dtype))


@isthmus.export
def same(x):
    return x


@isthmus.export
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds


@isthmus.export
def count(n):
    yield from range(n)
