"""Exports that perform many calls at once."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from . import _isthmus
from .executors import ExecutorLike, is_asynchronous, performer, what_is_called

__all__ = ["Batch", "Batched"]


@dataclass(frozen=True)
class Batch:
    """How the calls of an export are gathered, as in ``@isthmus.export(batch=Batch(max=64, wait=0.002))``.

    A batch is performed when it has ``max`` calls, or when its first call has waited ``wait`` seconds; while
    one is performed, the next gathers. The function is called with a list for each parameter, in the order of
    the calls, and returns as many results. A result that is an exception fails its call alone; what the
    function raises fails all. With ``stack=True`` the arguments are numpy arrays or numbers, and come stacked
    along a new first axis; calls whose arrays differ in shape or dtype are batches of their own.
    """

    max: int = 64
    wait: float = 0.002
    stack: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max, int) or self.max < 1:
            raise ValueError(f"Batch(max={self.max!r}): a batch has at least one call")
        if not 0 <= self.wait <= 3600:
            raise ValueError(f"Batch(wait={self.wait!r}): a batch waits from 0 to 3600 seconds")


class _Waiting(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: asyncio.Future[Any]
    since: float
    kind: object  # calls of one kind fit into one batch


class Batched:
    """An export whose calls are gathered. Called on an event loop; each loop gathers its own."""

    def __init__(
        self, function: Callable[..., Any], batch: Batch, executor: ExecutorLike | None, export: str
    ) -> None:
        if not isinstance(batch, Batch):
            raise TypeError(f"batch={batch!r} is no isthmus.Batch")
        called = what_is_called(function)
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            raise TypeError(f"{function!r} is a generator: a batch returns one result for each call")
        if executor is not None and is_asynchronous(function):
            raise TypeError(f"{function!r} is asynchronous, so it runs on the event loop and on no executor")
        self._perform = None
        if not is_asynchronous(function):
            own = ThreadPoolExecutor(1, thread_name_prefix="isthmus.batch") if executor is None else executor
            self._perform = performer(own, export)
        self._function = function
        self._batch = batch
        self._gathering: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = WeakKeyDictionary()
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        gathering = self._gathering.get(loop)
        if gathering is None:
            gathering = self._gathering[loop] = _Gathering(self._batch, self.perform)
        return gathering.add(args, kwargs)

    async def perform(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls the function, on the loop or on its executor."""
        _isthmus.calling.set(None)  # it is performed for many
        if self._perform is None:
            return await self._function(*args, **kwargs)
        return await self._perform(self._function, *args, **kwargs)


class _Gathering:
    """The calls that wait for their batch, on one event loop."""

    def __init__(self, batch: Batch, perform: Callable[[Sequence[Any], Mapping[str, Any]], Any]) -> None:
        self._batch = batch
        self._perform = perform
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        kind = _kind(args, kwargs, self._batch.stack)
        self._waiting.append(_Waiting(args, kwargs, result, loop.time(), kind))
        self._look()
        return result

    def _look(self) -> None:
        """Begins the next batch if it is time, else sees to it that somebody looks again."""
        if self._running is not None:
            return
        while self._waiting and self._waiting[0].result.done():  # cancelled
            self._waiting.popleft()
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0].since + self._batch.wait
        if len(self._waiting) < self._batch.max and due > loop.time():
            self._timer = loop.call_at(due, self._look)
            return
        self._running = loop.create_task(self._run(self._take()))
        self._running.add_done_callback(self._ended)

    def _take(self) -> list[_Waiting]:
        """Calls of the first one's kind, as many as fit; the others stay in their order."""
        kind, taken = self._waiting[0].kind, list[_Waiting]()
        left: deque[_Waiting] = deque()
        while self._waiting and len(taken) < self._batch.max:
            call = self._waiting.popleft()
            if not call.result.done():
                (taken if call.kind == kind else left).append(call)
        left.extend(self._waiting)
        self._waiting = left
        return taken

    async def _run(self, calls: list[_Waiting]) -> None:
        first = calls[0]
        try:
            args = [self._gathered([call.args[i] for call in calls]) for i in range(len(first.args))]
            kwargs = {name: self._gathered([call.kwargs[name] for call in calls]) for name in first.kwargs}
            results = _results(await self._perform(args, kwargs), len(calls))
        except asyncio.CancelledError:
            for call in calls:
                call.result.cancel()
            raise
        except BaseException as error:
            results = [error] * len(calls)
        for call, result in zip(calls, results, strict=True):
            if call.result.done():
                continue
            if isinstance(result, StopIteration):  # no future may have it
                call.result.set_exception(RuntimeError(f"the result of the call is {result!r}"))
            elif isinstance(result, BaseException):
                call.result.set_exception(result)
            else:
                call.result.set_result(result)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._running = None
        self._look()

    def _gathered(self, values: list[Any]) -> Any:
        if not self._batch.stack:
            return values
        import numpy as np

        return np.stack(values)


def _kind(args: tuple[Any, ...], kwargs: dict[str, Any], stack: bool) -> object:
    names = frozenset(kwargs)
    if not stack:
        return len(args), names
    shapes = [
        (getattr(value, "shape", ()), getattr(value, "dtype", type(value)))
        for value in (*args, *(kwargs[name] for name in sorted(names)))
    ]
    return len(args), names, tuple(shapes)


def _results(results: Any, calls: int) -> list[Any]:
    """One for each call. Raises TypeError when they are not that."""
    if isinstance(results, str | bytes | Mapping) or not hasattr(results, "__len__"):
        raise TypeError(
            f"a batch returns a list with a result for each call, and not a {type(results).__name__}"
        )
    if len(results) != calls:
        raise TypeError(f"a batch of {calls} calls returned {len(results)} results")
    return list(results)
