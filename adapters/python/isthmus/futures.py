"""Calls that are not waited for at once: a Future for threads, another for event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from . import _isthmus
from ._isthmus import RESULT

__all__ = ["begin", "is_in_loop", "sink_of", "submit", "tell"]


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
    """Takes the events of one call, on its event loop."""

    def receive(self, what: int, value: Any) -> None: ...


class _Sink:
    """Brings events to a loop, which is woken once for all that come until it takes them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._events: list[tuple[Receiver, int, Any]] = []  # guarded by it; the loop is woken for the first

    def __call__(self, events: Sequence[tuple[Receiver, int, Any]]) -> None:
        loop = self._loop()
        with self._lock:
            is_first = not self._events
            self._events.extend(events)
        try:
            if loop is None or loop.is_closed():
                self._take()  # nobody waits
            elif is_first:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # it was closed meanwhile
            self._take()

    def _take(self) -> list[tuple[Receiver, int, Any]]:
        with self._lock:
            events, self._events = self._events, []
        return events

    def _deliver(self) -> None:
        for receiver, what, value in self._take():
            receiver.receive(what, value)


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
            self.future.set_exception(value)

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
