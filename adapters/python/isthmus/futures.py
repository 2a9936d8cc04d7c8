"""Calls that are not waited for at once: a Future for threads, another for event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from . import _isthmus
from ._isthmus import RESULT

__all__ = ["begin", "hand_over", "is_in_loop", "set_failure", "sink_of", "submit", "tell"]


log = logging.getLogger("isthmus")

OVERDUE = 0.05  # seconds: a loop that has not looked since then is woken again


def is_in_loop() -> bool:
    """Whether an event loop runs in this thread, which must not be blocked."""
    return asyncio._get_running_loop() is not None


class _Future(concurrent.futures.Future[Any]):
    """Its ``cancel`` reaches the other side."""

    def __init__(self, native: _isthmus.Bus) -> None:
        super().__init__()
        self._native = native
        self._handle = 0
        self._uncancelled = [True]

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        with contextlib.suppress(IndexError):  # of those that cancel at once, the first one tells
            self._uncancelled.pop()
            self.set_running_or_notify_cancel()
            self._native.cancel(self._handle)
        return True


def _settle(events: Sequence[tuple[_Future, int, Any]]) -> None:
    for future, what, value in events:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # it was cancelled
            if what == RESULT:
                future.set_result(value)
            else:
                future.set_exception(value)


def submit(
    native: _isthmus.Bus,
    target: _isthmus.Target,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
) -> concurrent.futures.Future[Any]:
    """Begins a call whose result comes in a Future."""
    future = _Future(native)
    future._handle = native.start(target, args, kwargs, timeout, 0, 0, _settle, future)
    return future


class Receiver(Protocol):
    """Takes the events of one call, on its event loop. After an interrupt, the last one may come again."""

    def receive(self, what: int, value: Any) -> None: ...


class _Batch:
    """Events of a loop that was woken for them. The loop's handle owns it: where that is lost, as by a signal
    handler that raises, the loop is woken anew; where the loop is closed, they are gone with it.
    """

    __slots__ = ("__weakref__", "_sink", "events", "since")

    def __init__(self, sink: _Sink, events: Iterable[tuple[Receiver, int, Any]]) -> None:
        self._sink = sink
        self.events = deque(events)  # empty: whoever comes wakes the loop
        self.since = time.monotonic()

    def __del__(self) -> None:
        if self.events:
            events = self.events
            self.events = deque()
            self._sink(events)


class _Sink:
    """Brings events to a loop, which is woken once for all that come until it has taken them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._lock = threading.RLock()
        self._last: weakref.ref[_Batch] | None = None  # guarded by it, as who adds to the batch is

    def __call__(self, events: Sequence[tuple[Receiver, int, Any]]) -> None:
        with self._lock:
            batch = self._last() if self._last is not None else None
            if batch is None or not batch.events:
                batch = _Batch(self, events)
                self._last = weakref.ref(batch)
            else:
                batch.events.extend(events)
                if time.monotonic() - batch.since < OVERDUE:
                    return
        self._wake(batch)

    def _wake(self, batch: _Batch) -> None:
        loop = self._loop()
        try:
            if loop is not None and not loop.is_closed():
                batch.since = time.monotonic()
                loop.call_soon_threadsafe(self._deliver, batch)
                return
        except RuntimeError:  # it was closed meanwhile
            pass
        batch.events.clear()  # nobody waits

    def _deliver(self, batch: _Batch) -> None:
        """An event leaves the batch once it was received: an interrupt loses none, but one may come twice."""
        for _ in range(len(batch.events)):
            hand_over(*batch.events[0])
            batch.events.popleft()
        with self._lock:  # whoever found the batch not yet empty has added to it
            has_more = bool(batch.events)
        if has_more:
            self._wake(batch)


def hand_over(receiver: Receiver, what: int, value: Any) -> None:
    """One that fails is no reason for the others not to be told."""
    try:
        receiver.receive(what, value)
    except Exception:
        log.exception("what came over the bus could not be received")


def set_failure(future: asyncio.Future[Any], error: BaseException) -> None:
    """As Python does from 3.12 on, before which a StopIteration could not be set at all."""
    if isinstance(error, StopIteration):
        failure = RuntimeError("the call has raised StopIteration")
        failure.__cause__ = error
        error = failure
    future.set_exception(error)


_sinks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Sink] = weakref.WeakKeyDictionary()


def sink_of(loop: asyncio.AbstractEventLoop) -> _Sink:
    """The one of this loop, so that a batch wakes it once."""
    sink = _sinks.get(loop)
    if sink is None:
        sink = _sinks[loop] = _Sink(loop)
    return sink


class Told(Receiver, Protocol):
    """One that knows the loop, or the threads, that it is told on."""

    @property
    def sink(self) -> Callable[[Sequence[tuple[Any, int, Any]]], object]: ...


def tell(events: Iterable[tuple[Told, int, Any]]) -> None:
    """Brings events to whom they are for, and wakes each loop once."""
    of_sinks: dict[Any, list[tuple[Told, int, Any]]] = {}
    for event in events:
        of_sinks.setdefault(event[0].sink, []).append(event)
    for sink, list_ in of_sinks.items():
        sink(list_)


class _Call:
    """A call that an event loop's future stands for."""

    __slots__ = ("future", "handle", "native")

    def __init__(self, native: _isthmus.Bus, future: asyncio.Future[Any]) -> None:
        self.native = native
        self.future = future
        self.handle = 0

    def receive(self, what: int, value: Any) -> None:
        if self.future.done():
            return
        if what == RESULT:
            self.future.set_result(value)
        else:
            set_failure(self.future, value)

    def pass_on_cancel(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self.native.cancel(self.handle)


def begin(
    native: _isthmus.Bus,
    target: _isthmus.Target,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
) -> asyncio.Future[Any]:
    """Begins a call whose result is awaited on the running loop."""
    loop = asyncio.get_running_loop()
    call = _Call(native, loop.create_future())
    call.handle = native.start(target, args, kwargs, timeout, 0, 0, sink_of(loop), call)
    call.future.add_done_callback(call.pass_on_cancel)
    return call.future
