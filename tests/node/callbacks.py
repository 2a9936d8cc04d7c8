"""What tests/node/callbacks.test.mjs calls."""

import asyncio
import itertools
import time

import isthmus

raised: list[BaseException] = []


@isthmus.export
def apply(f, *args, **kwargs):
    return f(*args, **kwargs)


@isthmus.export
def nap(seconds):
    time.sleep(seconds)


@isthmus.export
async def take_in_thread(stream, n):
    return await asyncio.to_thread(lambda: list(itertools.islice(stream, n)))


@isthmus.export
def apply_often(f, n):
    for i in range(n):
        f(i)


@isthmus.export
async def apply_later(f, *args):
    await asyncio.sleep(0)
    return await f(*args)


@isthmus.export
async def apply_together(f, values):
    return await asyncio.gather(*(f(value) for value in values))


@isthmus.export
async def apply_in_thread(f, value):
    return await asyncio.to_thread(f, value)


@isthmus.export
def same(value):
    return value


@isthmus.export
def adder(n):
    return lambda x: x + n


@isthmus.export
def fail(text):
    raised.append(LookupError(text))
    raise raised[-1]


@isthmus.export
def is_same_again(f):
    try:
        f()
    except LookupError as error:
        return error is raised[-1]
    return False


@isthmus.export
def type_of_failure(f):
    try:
        f()
    except Exception as error:
        return type(error).__name__, str(error)


@isthmus.export
def depth(f, n):
    return 0 if n == 0 else 1 + f(n - 1)


held = []


@isthmus.export
def hold(f):
    held.append(f)


@isthmus.export
def drop():
    held.clear()
