import asyncio
import os
import signal
import sys
import time

import numpy as np

import isthmus


@isthmus.export
def same(x):
    return x


@isthmus.export
def kind(x):
    return type(x).__name__


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def named(*args, **kwargs):
    return [list(args), kwargs]


@isthmus.export
def fail(message="it failed"):
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError(message, 3) from error


@isthmus.export
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds


@isthmus.export
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@isthmus.export
def hold(flag):
    """Lets nothing else begin until its caller sets the flag, which lies in bus memory."""
    while not flag[0]:
        time.sleep(0.001)


@isthmus.export
def compute_until(flag):
    """Holds the GIL, and never gives it up for long, until its caller sets the flag."""
    while not flag[0]:
        pass


@isthmus.export
def compute(seconds):
    """Holds the GIL, and never gives it up for long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


posted = []


@isthmus.export
def post(value):
    posted.append(value)


@isthmus.export
def take_posted():
    taken = list(posted)
    posted.clear()
    return taken


@isthmus.export
def total(x):
    return float(np.sum(x))


@isthmus.export
def describe(x):
    return {"dtype": str(x.dtype), "shape": list(x.shape), "writeable": bool(x.flags.writeable)}


@isthmus.export
def fill(x, value):
    x[...] = value
    return float(x.sum())


@isthmus.export
def counting(n, dtype="float64"):
    out = isthmus.empty((n,), dtype)
    out[...] = np.arange(n)
    return out


@isthmus.export
def grid(rows, columns, order="C"):
    return np.asarray(np.arange(rows * columns, dtype="float32").reshape(rows, columns), order=order)


@isthmus.export
def oddities():
    return {
        "truths": np.array([True, False, True]),
        "complex": np.array([1 + 2j, 3 - 4j]),
        "scalar": np.array(7.0),
        "empty": np.zeros((0, 3), "int16"),
    }


kept = []


@isthmus.export
def keep(x):
    kept.append(x)


@isthmus.export
def kept_total():
    return float(kept[-1].sum())


@isthmus.export
def let_go():
    kept.clear()


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def die(how="SIGKILL"):
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(5)


@isthmus.export
def leave(code):
    os._exit(code)


@isthmus.export
def say(text):
    sys.stdout.write(text)
