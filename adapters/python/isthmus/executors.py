"""Exports that run beside the dispatcher, on threads or wherever an executor takes them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Hashable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from . import _isthmus
from .errors import in_words
from .tasks import background

__all__ = ["Executed", "ExecutorLike", "is_asynchronous", "performer", "what_is_called"]

MOST_ITEMS = 256  # of a generator that are taken together
MOST_THREADS = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio's own
HOLD_BACK = 1e-3  # seconds for which they are

Performer = Callable[..., Awaitable[Any]]
ExecutorLike = str | Executor | Callable[[], Executor]

_lock = threading.Lock()
_shared: ThreadPoolExecutor | None = None


def _shared_threads() -> ThreadPoolExecutor:
    """One pool for all exports with executor="threads"."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="isthmus.threads")
        return _shared


def performer(executor: ExecutorLike, export: str) -> Performer:
    """What performs the calls of an export on an executor. On threads a call keeps its context, and so
    ``isthmus.current``.

    Raises TypeError for what is no executor.
    """
    if executor == "threads":
        return functools.partial(_in_turn, "threads", functools.partial(_on_a_thread, None))
    if executor == "processes":
        return functools.partial(_in_turn, "processes", _performer_on(executor))
    if isinstance(executor, Executor):
        return _performer_on(executor)
    return functools.partial(_source(executor).perform, export)


def _performer_on(executor: str | Executor) -> Performer:
    if isinstance(executor, ThreadPoolExecutor):
        return functools.partial(_on_a_thread, executor)
    from .offsite import Offsite  # it takes a while, and most programs do without

    return Offsite(executor)


def _on_a_thread(pool: Executor | None, /, *call: Any, **kwargs: Any) -> asyncio.Future[Any]:
    return asyncio.wrap_future((pool or _shared_threads()).submit(copy_context().run, *call, **kwargs))


class Source:
    """A function that makes an executor. Calls ask it until they have one: all that wait together once, on a
    thread of its own, which nobody waits for at the end.
    """

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._answer: Future[Performer | BaseException] | None = None

    async def perform(self, export: str, /, *call: Any, **kwargs: Any) -> Any:
        answer = self._asked()
        found = answer.result() if answer.done() else await asyncio.wrap_future(answer)
        if isinstance(found, BaseException):
            raise in_words(found, f"the executor of '{export}' can't be had: {found}")
        return await found(*call, **kwargs)

    def _asked(self) -> Future[Performer | BaseException]:
        with self._lock:
            if self._answer is None:
                answer: Future[Performer | BaseException] = Future()
                answer.set_running_or_notify_cancel()  # one call that is cancelled leaves it to the others
                background(self._ask, answer, "isthmus.executor").start()
                self._answer = answer
            return self._answer

    def _ask(self, answer: Future[Performer | BaseException]) -> None:
        try:
            executor = self._make()
            if not isinstance(executor, Executor):
                raise TypeError(
                    f"{self._make!r} returned {executor!r}, which is no concurrent.futures.Executor"
                )
            answer.set_result(_performer_on(executor))
        except BaseException as error:
            with self._lock:
                self._answer = None
            answer.set_result(error)
        else:
            if threading.current_thread().daemon:  # what was started may end with the thread, as Ray's does
                threading.Event().wait()


_sources: WeakValueDictionary[Callable[[], Executor], Source] = WeakValueDictionary()


def _source(make: Any) -> Source:
    """One for all exports with this function. Raises TypeError for what is none, or takes arguments."""
    try:
        with suppress(ValueError):  # some of those in C don't tell what they take
            inspect.signature(make).bind()
        if is_asynchronous(make):
            raise TypeError
    except TypeError:
        raise TypeError(
            f"executor={make!r} is no executor: use 'threads', 'processes', a concurrent.futures.Executor of "
            "your own, or a function without arguments that returns one"
        ) from None
    with _lock:
        return _sources.setdefault(make, Source(make))


class Turns:
    """Lets callers take turns on a pool: so many calls are in it, and of those that wait each caller has the
    next one in its turn. So one that floods it makes the others wait for a few calls, and not for all of its.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, caller: Hashable) -> None:
        if self._left > 0:
            self._left -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._left += 1


_turns: dict[str, WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = {
    "threads": WeakKeyDictionary(),
    "processes": WeakKeyDictionary(),
}


async def _in_turn(pool: str, perform: Performer, /, *call: Any, **kwargs: Any) -> Any:
    """Performs a call on one of the two pools that all exports share."""
    loop = asyncio.get_running_loop()
    turns = _turns[pool].get(loop)
    if turns is None:  # twice what can run at the same time, so that nobody waits for this loop
        turns = _turns[pool][loop] = Turns(2 * (MOST_THREADS if pool == "threads" else os.cpu_count() or 1))
    caller = _isthmus.calling.get()
    await turns.take(None if caller is None else caller.slot)
    try:
        return await perform(*call, **kwargs)
    finally:
        turns.give()


def is_of_threads(executor: ExecutorLike) -> bool:
    """Whether what it runs is run by threads of this process."""
    return executor == "threads" or isinstance(executor, ThreadPoolExecutor)


def what_is_called(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that runs when an object is called."""
    is_plain = inspect.isroutine(function) or isinstance(function, functools.partial)
    return function if is_plain else function.__call__  # type: ignore[operator]


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether its calls belong to an event loop."""
    called = what_is_called(function)
    return inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)


class Executed:
    """An export whose calls run on an executor. Called on the event loop, which waits for what it returns."""

    def __init__(self, function: Callable[..., Any], executor: ExecutorLike, export: str) -> None:
        self._perform = performer(executor, export)
        if is_asynchronous(function):
            raise TypeError(f"{function!r} is asynchronous, so it runs on the event loop and on no executor")
        self._is_generator = inspect.isgeneratorfunction(what_is_called(function))
        if self._is_generator and not is_of_threads(executor):
            raise TypeError(
                f"{function!r} is a generator, which can run on threads alone: executor='threads'"
            )
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any] | AsyncIterator[Any]:
        if self._is_generator:
            return self._items(self._function(*args, **kwargs))
        return self._perform(self._function, *args, **kwargs)

    async def _items(self, generator: Generator[Any, None, Any]) -> AsyncIterator[Any]:
        ended = False
        try:
            while not ended:
                taking = asyncio.ensure_future(self._perform(_take, generator))
                try:
                    items, ended, error = await asyncio.shield(taking)
                except asyncio.CancelledError:
                    await asyncio.wait([taking])  # it can't be closed while it runs
                    raise
                for item in items:
                    yield item
                if error is not None:
                    raise error
        finally:
            if not ended:
                await self._perform(generator.close)


def _take(iterator: Iterator[Any]) -> tuple[list[Any], bool, BaseException | None]:
    """The next items, whether there are no more, and why if that is an error."""
    items: list[Any] = []
    until = time.perf_counter() + HOLD_BACK
    try:
        while len(items) < MOST_ITEMS:
            items.append(next(iterator))
            if time.perf_counter() >= until:
                break
    except StopIteration:
        return items, True, None
    except BaseException as error:
        return items, True, error
    return items, False, None
