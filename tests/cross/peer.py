"""What peer.mjs offers, in Python: callers back from everywhere, streams, and calls that take their time."""

import asyncio
import gc
import inspect
import itertools
import threading
import time
import weakref

import isthmus

events = []


@isthmus.export
def take_events():
    taken = list(events)
    events.clear()
    return taken


@isthmus.export
def echo(v):
    return v


@isthmus.export
def same(a, b):
    return a is b


kept = []


@isthmus.export
def keep(v):
    kept.append(v)


@isthmus.export
def keeper():
    return keep


@isthmus.export
def keep_part(array):
    kept.append(array[10:][5:20])


@isthmus.export
def kept_is(value):
    """How long the array is that was kept last, and whether it is all of this value."""
    return [len(kept[-1]), bool((kept[-1] == value).all())]


@isthmus.export
def make(count, value):
    array = isthmus.empty(count)
    array[:] = value
    return array


@isthmus.export
def take():
    return kept.pop()


@isthmus.export
def drop():
    kept.clear()
    gc.collect()


# --- callbacks ----------------------------------------------------------------------------------------------


@isthmus.export
def apply(f, *args):
    return f(*args)


@isthmus.export
async def apply_thread(f, *args):
    return await asyncio.to_thread(f, *args)


@isthmus.export
async def apply_async(f, *args):
    result = f(*args)
    return await result if inspect.isawaitable(result) else result


@isthmus.export
async def apply_at_once(f, n):
    return await asyncio.gather(*(f(i) for i in range(n)))


functions = weakref.WeakSet()


@isthmus.export
def adder(n):
    def add(x):
        return x + n

    functions.add(add)
    return add


@isthmus.export
def adders(n):
    return [adder(i) for i in range(n)]


@isthmus.export
def descend(f, n):
    return 0 if n == 0 else 1 + f(n - 1)


@isthmus.export
async def descend_async(f, n):
    return 0 if n == 0 else 1 + await f(n - 1)


@isthmus.export
def meanwhile(f):
    """Whether Python goes on while f runs."""
    turns = 0
    done = threading.Event()

    def count():
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    f()
    done.set()
    thread.join()
    return turns


# --- streams ------------------------------------------------------------------------------------------------

made = 0


@isthmus.export
def count(n, fail_at=-1, size=0):
    global made
    made = 0
    try:
        for i in range(n):
            if i == fail_at:
                raise ValueError(f"no {i}")
            made = i + 1
            yield "x" * size if size else i
    finally:
        events.append("closed")


@isthmus.export
async def ticks(n, pause=0.001):
    global made
    made = 0
    try:
        for i in range(n):
            await asyncio.sleep(pause)
            made = i + 1
            yield i
    finally:
        events.append("closed")


@isthmus.export
def restream(stream):
    yield from stream


@isthmus.export
def how_many():
    return made


@isthmus.export
def total(stream):
    return sum(stream)


@isthmus.export
async def total_async(stream):
    result = 0
    async for item in stream:
        result += item
    return result


@isthmus.export
def first(stream, n):
    taken = list(itertools.islice(stream, n))
    stream.close()
    return taken


@isthmus.export
async def first_async(stream, n):
    taken = []
    async for item in stream:
        taken.append(item)
        if len(taken) == n:
            break
    await stream.aclose()
    return taken


@isthmus.export
def slowly(stream, pauses):
    """Reads one item, and the others after a while."""
    taken = next(stream)
    time.sleep(pauses)
    return taken


@isthmus.export
def until_error(stream):
    taken = []
    try:
        taken.extend(stream)
    except Exception as error:
        taken.append(str(error))
    return taken


# --- time and cancellation ----------------------------------------------------------------------------------

touches = 0


@isthmus.export
def hold(flag):
    """Lets nothing else begin until its caller sets the flag, which lies in bus memory."""
    events.append("hold began")
    while not flag[0]:
        time.sleep(0.001)
    events.append("hold ended")


@isthmus.export
def touch():
    global touches
    touches += 1


@isthmus.export
def touched():
    return touches


@isthmus.export
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds


@isthmus.export
async def wait(seconds):
    events.append("wait began")
    try:
        await asyncio.sleep(seconds)
        events.append("wait ended")
    except asyncio.CancelledError:
        events.append("wait cancelled")
        raise
    finally:
        events.append("wait cleaned up")


def look(seconds):
    events.append("watch began")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if isthmus.current().cancelled:
            events.append("watch saw it")
            return
        time.sleep(0.001)
    events.append("watch saw nothing")


@isthmus.export
def watch(seconds):
    look(seconds)


@isthmus.export
async def watch_thread(seconds):
    await asyncio.to_thread(look, seconds)


@isthmus.export
def remaining():
    """Seconds until the deadline of this call."""
    deadline = isthmus.current().deadline
    return None if deadline is None else deadline - time.monotonic()


@isthmus.export
async def remaining_async():
    return remaining()


# --- errors -------------------------------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@isthmus.export
def fail(name="ValueError"):
    error = {
        "ValueError": ValueError("a value", 7),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "SystemExit": SystemExit(3),
        "Unprintable": Unprintable("x"),
    }[name]
    try:
        {}["missing"]
    except KeyError as cause:
        raise error from cause


@isthmus.export
def wrap(f):
    try:
        return f()
    except Exception as error:
        raise RuntimeError("wrapped") from error


@isthmus.export
def told(f):
    """What this side is told of f's error."""
    try:
        f()
    except BaseException as error:
        return describe(error)


def describe(error):
    try:
        text = str(error)
    except RuntimeError:
        text = ""
    return {
        "class": type(error).__name__,
        "type": getattr(error, "type", type(error).__name__),
        "message": getattr(error, "message", text),
        "stack": getattr(error, "traceback", ""),
        "cause": describe(error.__cause__) if error.__cause__ else None,
    }


@isthmus.export
def is_the_same(f):
    """Whether an error of this side that passes through f is the same when it comes back."""
    raised = ValueError("once")

    def thrower():
        raise raised

    try:
        f(thrower)
    except ValueError as error:
        return error is raised
    return None


# --- remote objects -----------------------------------------------------------------------------------------


class Box:
    """Counts what is done to it."""

    living = 0

    def __init__(self, value=0):
        Box.living += 1
        self.value = value
        self.reads = 0
        self.calls = 0
        self._release = "mine"

    def __del__(self):
        Box.living -= 1

    def __str__(self):
        return f"a box of {self.value}"

    def __float__(self):
        return float(self.value)

    def __getitem__(self, key):
        return [type(key).__name__, repr(key)]

    def __setitem__(self, key, value):
        self.value = [key, value]

    def __add__(self, other):
        return Box(self.value + other)

    def __lt__(self, other):
        return self.value < other.value

    def __len__(self):
        return 7

    def __iter__(self):
        yield from range(self.value)

    @property
    def seen(self):
        self.reads += 1
        return self

    def add(self, n, *, times=1):
        self.calls += 1
        return Box(self.value + n * times)

    def get(self):
        return self.value

    def counts(self):
        return [self.reads, self.calls]

    def fail(self, message):
        raise LookupError(message)

    def same(self, other):
        return self is other

    def release(self):
        return "python's release"

    def text(self, value):
        return repr(value)


@isthmus.export
def box(value=0):
    return Box(value)


@isthmus.export
def boxes(n):
    return [Box(i) for i in range(n)]


@isthmus.export
def value_of(box):
    return box.value


@isthmus.export
def living():
    """Boxes and adders."""
    gc.collect()
    return Box.living + len(functions)
