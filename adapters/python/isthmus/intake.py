"""What a stream of the keeper brings: messages, for any thread and any event loop to take."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from . import futures
from ._isthmus import ITEMS, RAISED, RESULT, STREAMS
from .access import PATIENCE, SLICE, Access, end_of, left_until
from .errors import Error, PeerLost, TimeoutError
from .keeper import READY

__all__ = ["Closed", "Intake", "readable"]

Item = TypeVar("Item")


class Closed(Error):
    """It was closed on this side."""


class _Waiter:
    """A thread that waits for an item."""

    __slots__ = ("_event", "outcome")
    _event: threading.Event

    def __init__(self) -> None:
        self.outcome: tuple[int, Any] | None = None  # set with the lock of the intake held

    def prepare(self) -> None:
        """To wait: an item that is there already needs none of it."""
        self._event = threading.Event()

    @staticmethod
    def sink(events: Sequence[tuple[_Waiter, int, Any]]) -> None:
        for waiter, *_ in events:
            waiter._event.set()

    def receive(self, what: int, value: Any) -> None:
        self._event.set()

    def wait(self, timeout: float) -> None:
        self._event.wait(timeout)


class _LoopWaiter:
    """A coroutine that waits for one."""

    __slots__ = ("future", "outcome", "sink")
    future: asyncio.Future[None]

    def __init__(self) -> None:
        self.outcome: tuple[int, Any] | None = None  # likewise

    def prepare(self) -> None:
        loop = asyncio.get_running_loop()
        self.future = loop.create_future()
        self.sink = futures.sink_of(loop)

    def receive(self, what: int, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Look:
    """Ends a wait when the keeper has said all that it had to say before it was asked."""

    __slots__ = ("_intake", "_waiter")

    def __init__(self, intake: Intake[Any], waiter: _Waiter | _LoopWaiter) -> None:
        self._intake = intake
        self._waiter = waiter

    def receive(self, what: int, value: Any) -> None:
        failed = what == RAISED and not isinstance(value, TimeoutError)
        self._intake.looked(self._waiter, value if failed else None)


def _deliver(events: Sequence[tuple[Intake[Any] | _Look, int, Any]]) -> None:
    for receiver, what, value in events:
        futures.hand_over(receiver, what, value)


class Intake(Generic[Item]):
    """It does not know the object that the program has, so a stream ends when nobody can read it any more."""

    def __init__(self, access: Access, what: str) -> None:
        self.access = access
        self.native = access.native
        self.what = what
        # Guards what follows; held for moments, in which a queue that is dropped may close its intake.
        self.lock = threading.RLock()
        self.items: deque[Item] = deque()
        self.waiters: deque[_Waiter | _LoopWaiter] = deque()
        self.handle = 0
        self.failure: BaseException | None = None  # there is nothing to come
        self._settled: list[tuple[_Waiter | _LoopWaiter, int, Any]] = []

    def begin(self, name: str, args: tuple[Any, ...], credit: int) -> None:
        self.handle = self.native.start(name, args, {}, None, STREAMS, credit, _deliver, self)

    # --- with the lock held ---

    def taken(self, item: Item) -> None:
        """The program has it."""

    def adjust(self) -> None:
        """It is another number that wait, or another place that is free."""

    def told(self, failure: BaseException) -> None:
        """The program knows of it."""

    def _settle(self, waiter: _Waiter | _LoopWaiter, what: int, value: Any) -> None:
        waiter.outcome = what, value
        self._settled.append((waiter, what, None))

    def give(self, item: Item) -> bool:
        """To who waits the longest."""
        if not self.waiters:
            return False
        self.taken(item)
        self._settle(self.waiters.popleft(), RESULT, item)
        return True

    def arrive(self, items: Sequence[Item]) -> None:
        for item in items:
            if not self.give(item):
                self.items.append(item)

    def take_back(self, item: Item) -> None:
        """The program has not taken it after all."""
        if not self.give(item):
            self.items.appendleft(item)

    def fail(self, error: BaseException) -> None:
        self.failure = error
        while self.waiters:
            self.told(error)
            self._settle(self.waiters.popleft(), RAISED, error)
        self.wake()

    def wake(self) -> None:
        """Those for whom something has come."""
        settled, self._settled = self._settled, []
        futures.tell(settled)

    # --- the dispatcher's thread ---

    def receive(self, what: int, value: Any) -> None:
        with self.lock:
            if self.failure is not None:
                return  # what was on its way when it was closed is for others
            try:
                if what == ITEMS:
                    self.arrive(value)
                else:
                    self.fail(PeerLost(f"{self.what} has ended") if what == RESULT else value)
            finally:
                self.wake()

    def looked(self, waiter: _Waiter | _LoopWaiter, failure: BaseException | None) -> None:
        """There was nothing for it, unless it has it."""
        with self.lock:
            if waiter not in self.waiters:
                return
            self._withdraw(waiter)
            self._settle(waiter, RAISED, failure or self._nothing(0))
            self.wake()

    # --- any thread ---

    def _ask(self, waiter: _Waiter | _LoopWaiter, look: bool) -> None:
        """For the next item, which it may have at once. Raises what has ended the stream."""
        with self.lock:
            if self.items:
                item = self.items.popleft()
                waiter.outcome = RESULT, item
                self.taken(item)
                return
            if self.failure is not None:
                failure = self.failure
                self.told(failure)
                raise failure
            waiter.prepare()
            self.waiters.append(waiter)
            self.adjust()
        if look:
            self.native.start(READY, (), {}, PATIENCE, 0, 0, _deliver, _Look(self, waiter))

    def _outcome(self, waiter: _Waiter | _LoopWaiter, timeout: float | None = None) -> Item:
        """What has come for it. It waits no longer; TimeoutError when nothing has."""
        with self.lock:
            if waiter.outcome is None:
                self._withdraw(waiter)
                raise self._nothing(timeout)
            what, value = waiter.outcome
        if what == RAISED:
            raise value
        item: Item = value
        return item

    def _nothing(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"{self.what} had no message within {timeout} s")

    def _abandon(self, waiter: _Waiter | _LoopWaiter) -> None:
        """It waits no longer, and what has come after all is for others."""
        with self.lock, contextlib.suppress(Error):  # the bus was left, and nobody keeps anything
            try:
                if waiter.outcome is None:
                    self._withdraw(waiter)
                elif waiter.outcome[0] == RESULT:
                    self.take_back(waiter.outcome[1])
            finally:
                self.wake()

    def _withdraw(self, waiter: _Waiter | _LoopWaiter) -> None:
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            self.adjust()

    def wait(self, timeout: float | None) -> Item:
        """The next item; with a timeout of 0 one that is there by now. Signal handlers run meanwhile."""
        if self.access.is_here:
            raise Error(
                f"{self.what} can't be waited for on the thread that its messages come by: use an export "
                'with executor="threads", or a coroutine'
            )
        end = end_of(timeout)
        try:
            self.access.ensure(end_of(PATIENCE) if timeout == 0 else end)
        except TimeoutError:
            raise self._nothing(timeout) from None
        waiter = _Waiter()
        try:
            self._ask(waiter, timeout == 0)
            while waiter.outcome is None:
                left = None if timeout == 0 else left_until(end)
                if left == 0:
                    break
                waiter.wait(SLICE if left is None else min(left, SLICE))
            return self._outcome(waiter, timeout)
        except BaseException:
            self._abandon(waiter)
            raise

    async def wait_async(self, timeout: float | None) -> Item:
        end = end_of(timeout)
        try:
            await self.access.ensure_async(end_of(PATIENCE) if timeout == 0 else end)
        except TimeoutError:
            raise self._nothing(timeout) from None
        waiter = _LoopWaiter()
        try:
            self._ask(waiter, timeout == 0)
            if waiter.outcome is None:
                left = None if timeout == 0 else left_until(end)
                await (waiter.future if left is None else asyncio.wait([waiter.future], timeout=left))
            return self._outcome(waiter, timeout)
        except BaseException:
            self._abandon(waiter)
            raise


def readable(value: Any) -> Any:
    """The value. Raises why it can't be read here, which is in its place then."""
    if isinstance(value, BaseException):
        raise value
    return value
