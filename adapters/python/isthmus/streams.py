"""Reading another peer's generators and async iterables."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

from . import _isthmus
from ._isthmus import ITEMS, RESULT
from .closing import Closing
from .futures import sink_of

__all__ = ["Stream"]

CREDIT = 1024  # items that the other side may be ahead


class _Inbox:
    """What has come for an `async for`. It does not know the stream, which ends when nobody reads it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.items: deque[Any] = deque()
        self.failure: BaseException | None = None
        self.ended = False
        self._reader: asyncio.Future[None] | None = None
        self._latest: list[Any] | None = None

    def receive(self, what: int, value: Any) -> None:
        if self.ended:
            return
        if what == ITEMS:
            if value is not self._latest:  # else it comes again, after an interrupt
                self._latest = value
                self.items += value
        else:
            self.ended = True
            self.failure = None if what == RESULT else value
        self.wake()

    def wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """Done when something has come, or when the stream was closed."""
        if self._reader is not None and not self._reader.done():
            raise RuntimeError("another task is waiting for this stream's next item")
        self._reader = self.loop.create_future()
        return self._reader


class Stream(Closing, Iterator[Any], AsyncIterator[Any]):
    """The items of another peer's generator or async iterable, for ``for`` or for ``async for``, once.

    It begins with the first item that is asked for, and the other side is never far ahead. Leaving it early
    closes the generator on the other side: ``close`` does it, ``with``, ``async with``, the cancellation of
    the task that reads it, or dropping it. An error comes after the items before it.

    One thread or task at a time may wait for the next item, and another that asks meanwhile gets
    RuntimeError; any thread may close it, which ends the wait.
    """

    __isthmus_reference__: _isthmus.Reference | None = None

    def __init__(
        self,
        native: _isthmus.Bus,
        target: _isthmus.Target,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        reference: _isthmus.Reference | None = None,
    ) -> None:
        self.__isthmus_reference__ = reference
        self._native = native
        self._call = (target, args, kwargs or {}, timeout)
        self._blocking: _isthmus.Stream | None = None
        self._items: deque[Any] = deque()  # of `for`
        self._waiting = threading.Lock()
        self._inbox: _Inbox | None = None
        self._handle = 0
        self._taken = 0
        self._closed = False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            pass
        if self._inbox is not None:
            raise RuntimeError("this stream is read by `async for`, so `for` can't read it")
        if not self._waiting.acquire(blocking=False):
            raise RuntimeError("another thread is waiting for this stream's next item")
        try:
            return self._wait()
        finally:
            self._waiting.release()

    def _wait(self) -> Any:
        """The next item, once it is there. One thread at a time."""
        while not self._items and not self._closed:
            if self._blocking is None:
                self._blocking = self._native.stream(*self._call, CREDIT)
                if self._closed:  # by another thread, which has not seen it
                    self._blocking.close()
            try:
                items = self._blocking.next_batch(None)
            except BaseException:
                self.close()
                raise
            if items is None:
                self.close()
            elif not self._closed:
                self._items.extend(items)
        try:
            return self._items.popleft()
        except IndexError:
            raise StopIteration from None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox
        if inbox is None:
            if self._blocking is not None:
                raise RuntimeError("this stream is read by `for`, so `async for` can't read it")
            inbox = _Inbox(asyncio.get_running_loop())
            if not self._closed:
                sink = sink_of(inbox.loop)
                self._handle = self._native.start(*self._call, _isthmus.STREAMS, CREDIT, sink, inbox)
            self._inbox = inbox
            if self._closed:  # meanwhile, by another thread, which has not seen it
                inbox.ended = True
                if self._handle:
                    self._native.cancel(self._handle)
        while not inbox.items and not inbox.ended:
            if asyncio.get_running_loop() is not inbox.loop:
                raise RuntimeError("this stream is read in another event loop")
            more = inbox.more()
            try:
                await more
            except BaseException:
                self.close()
                raise
        try:
            item = inbox.items.popleft()
        except IndexError:
            pass
        else:
            self._taken += 1
            if self._taken == CREDIT // 2:
                self._native.credit(self._handle, self._taken)
                self._taken = 0
            return item
        failure, inbox.failure = inbox.failure, None
        self.close()
        if failure is not None:
            raise failure
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the stream, and the generator on the other side. Does not wait for that."""
        if self._closed:
            return
        self._closed = True
        self._items.clear()
        if self._blocking is not None:
            self._blocking.close()
        if self._inbox is not None:
            if not self._inbox.ended:
                self._native.cancel(self._handle)
            self._inbox.ended = True
            self._inbox.items.clear()
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._inbox.loop.call_soon_threadsafe(self._inbox.wake)

    async def aclose(self) -> None:
        """The same as ``close``."""
        self.close()

    def release(self) -> None:
        """Ends the stream, and lets the other side forget it."""
        self.close()
        if self.__isthmus_reference__ is not None:
            self.__isthmus_reference__.release()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()
