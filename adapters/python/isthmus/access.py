"""The way of a peer to the keeper of its bus: finding it, and what is sent to it, in lanes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Protocol

from . import _isthmus, futures
from ._isthmus import DETACHED, RAISED, RESULT, current
from .errors import NotExported, PeerLost, TimeoutError
from .keeper import READY, own_starters, starter
from .peer import Peer
from .tasks import background

__all__ = ["PATIENCE", "SLICE", "Access", "Lane", "Telling", "end_of", "left_until"]

PATIENCE = 2.0  # seconds for the keeper of a bus to be there, and to say that nothing is
# What has no answer yet, of one queue or topic and of a connection to all of them. Some 1000 fit;
# acknowledgements go the same way, and must not wait for room behind them.
MOST_UNANSWERED = 64
MOST_UNANSWERED_IN_ALL = 256
SLICE = 1.0  # seconds: a signal that comes right before a wait is seen after it


def end_of(timeout: float | None) -> float | None:
    """When that time is over, as ``time.monotonic`` counts; None: never. Raises ValueError."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError("timeout must be a number of seconds from 0 on, or None")
    return time.monotonic() + timeout


def left_until(end: float | None) -> float | None:
    return None if end is None else max(end - time.monotonic(), 0)


class Access:
    """Of one peer, to the queues and topics of its bus. Any thread may use it.

    They are kept by a peer in the process that holds the bus, from their first use on.
    """

    def __init__(self, bus: str, peer: Peer) -> None:
        self.native: _isthmus.Bus = peer.native
        self._bus = bus
        self._peer = peer
        self.is_ready = False  # the keeper is there
        # Guards what follows; held for moments.
        self.lock = threading.RLock()
        self.unanswered = 0
        self._search: concurrent.futures.Future[None] | None = None
        self._lanes: weakref.WeakValueDictionary[tuple[str, str], Lane] = weakref.WeakValueDictionary()

    @property
    def is_here(self) -> bool:
        """Whether it is the thread that all answers come by, which can't wait for any."""
        return self._peer.is_here

    def lost(self, doing: str) -> PeerLost:
        """What the program is told when something was not done as nobody keeps anything any more."""
        return PeerLost(
            f"{doing} failed: the bus '{self._bus}' was closed or is gone, and with it all that it kept; "
            "connect again once it is served"
        )

    # --- finding the keeper ---

    def ensure(self, end: float | None = None) -> None:
        """Waits until the keeper is there. Raises PeerLost, TimeoutError."""
        if self.is_ready:
            return
        self._find(end)
        with self.lock:
            self.is_ready = True
            for lane in list(self._lanes.values()):
                lane.advance()

    async def ensure_async(self, end: float | None = None) -> None:
        """``ensure``, in the running event loop."""
        if not self.is_ready:
            found = asyncio.wrap_future(self.search())
            try:
                await asyncio.wait_for(found, left_until(end))
            except asyncio.TimeoutError:
                raise TimeoutError(f"the keeper of '{self._bus}' was not found in time") from None

    def search(self) -> concurrent.futures.Future[None]:
        """``ensure``, for all who come until it is over: in a thread of its own, which delays no end."""
        with self.lock:
            if self._search is None:
                search: concurrent.futures.Future[None] = concurrent.futures.Future()
                search.set_running_or_notify_cancel()  # who gives up waiting for it does not end it
                background(self._seek, search, "isthmus-keeper").start()
                self._search = search
            return self._search

    def _seek(self, search: concurrent.futures.Future[None]) -> None:
        failure: BaseException | None = None
        try:
            self.ensure()
        except BaseException as error:
            failure = error
        with self.lock:
            self._search = None
        if failure is None:
            search.set_result(None)
        else:
            search.set_exception(failure)

    def _find(self, end: float | None) -> None:
        start = own_starters.get(self._bus)
        if start is not None:  # not by a call, which would wait for what this process's host performs
            start()
            return
        until = time.monotonic() + PATIENCE
        while True:
            for name in (READY, starter(self._bus)):
                with contextlib.suppress(NotExported):
                    self.native.call(name, (), {}, left_until(end))
                    return
            if time.monotonic() > until:  # it joins right after the first worker
                raise PeerLost(f"nobody keeps the queues and topics of '{self._bus}'")
            time.sleep(0.01)

    def lane(self, verb: str, name: str) -> Lane:
        """The one for this, as long as somebody has it."""
        with self.lock:
            lane = self._lanes.get((verb, name))
            if lane is None:
                lane = self._lanes[verb, name] = Lane(self, verb)
            return lane


class Telling:
    """Around what the program does: when the bus is lost, that is named, and not what was called for it."""

    __slots__ = ("_access", "_doing")

    def __init__(self, access: Access, doing: str) -> None:
        self._access = access
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PeerLost):
            raise self._access.lost(self._doing) from None


class _Put(Protocol):
    """What is sent to a queue or topic, from when it is asked for until it has its answer."""

    in_flight: bool

    def begin(self) -> bool:
        """It is its turn. False when nothing was sent. Must not wait."""


class Lane:
    """What one peer sends to one queue or topic. What would be too many waits here, in order, and can be
    withdrawn without a word. Any thread.
    """

    def __init__(self, access: Access, verb: str) -> None:
        self.access = access
        self.verb = verb
        self._unanswered = 0
        self._waiting: OrderedDict[_Put, None] = OrderedDict()

    def send(self, args: tuple[Any, ...], timeout: float | None, what: str) -> None:
        """Sends, and waits for the answer. Raises TimeoutError or PeerLost, which speak of ``what``."""
        end = _end_of_put(timeout)
        put = _BlockingPut()
        try:
            self.access.ensure(end)
            self.enter(put)
            # The thread by which the answers come can't wait for them.
            if not self.access.is_here and not put.wait(end):
                raise TimeoutError("its turn did not come")
            self.access.native.call(self.verb, args, {}, left_until(end))
        except (TimeoutError, PeerLost) as error:
            raise self.failure(error, timeout, what) from None
        finally:
            self.leave(put)

    def begin(self, args: tuple[Any, ...], timeout: float | None, what: str) -> Awaitable[None]:
        """``send`` in the running event loop. What is begun sooner arrives sooner, whenever it is awaited."""
        put = _AsyncPut(self, args, timeout, what)
        search = None if self.access.is_ready else self.access.search()
        future = put.enter()
        if search is not None:
            search.add_done_callback(put.end_unless_found)
        return future

    def failure(self, error: Exception, timeout: float | None, what: str) -> Exception:
        """An error, as it is told to who has sent something to ``what``."""
        if isinstance(error, TimeoutError):
            time = "the time of the call that it is part of" if timeout is None else f"{timeout} s"
            return TimeoutError(f"{what} had no room within {time}")
        if isinstance(error, PeerLost):
            return self.access.lost(f"{self.verb.rpartition('.')[2]} to {what}")
        return error

    def enter(self, put: _Put) -> None:
        with self.access.lock:
            self._waiting[put] = None
            self.advance()

    def withdraw(self, put: _Put) -> bool:
        """It is given up, if it waits for its turn. Whether it did."""
        with self.access.lock:
            return self._waiting.pop(put, put) is None

    def leave(self, put: _Put) -> None:
        """It has its answer, or nobody wants it any more."""
        with self.access.lock:
            if not self.withdraw(put) and put.in_flight:
                put.in_flight = False
                self._unanswered -= 1
                self.access.unanswered -= 1
                self.advance()

    def advance(self) -> None:
        """With the lock."""
        while self._waiting and self._may_go():
            put = next(iter(self._waiting))
            if put.begin():
                put.in_flight = True
                self._unanswered += 1
                self.access.unanswered += 1
            self._waiting.pop(put, None)  # last: a signal handler that raises here loses nobody's turn

    def _may_go(self) -> bool:
        """One always may, so that nobody waits for the answers of others alone."""
        if not self.access.is_ready:
            return False
        if self._unanswered == 0:
            return True
        return self._unanswered < MOST_UNANSWERED and self.access.unanswered < MOST_UNANSWERED_IN_ALL


def _end_of_put(timeout: float | None) -> float | None:
    """When it has to be sent, and the time of the call that it is part of is over."""
    end = end_of(timeout)
    call = current()
    if call is None or call.deadline is None:
        return end
    return call.deadline if end is None else min(end, call.deadline)


class _BlockingPut:
    """Of a thread that waits for it."""

    def __init__(self) -> None:
        self.in_flight = False
        self._turn = threading.Event()

    def begin(self) -> bool:
        self._turn.set()
        return True

    def wait(self, end: float | None) -> bool:
        """Whether its turn has come in time. Signal handlers run meanwhile."""
        while not self._turn.is_set():
            left = left_until(end)
            if left == 0:
                return False
            self._turn.wait(SLICE if left is None else min(left, SLICE))
        return True


class _AsyncPut:
    """Of an event loop, on whose thread it is made and told. It is begun on any."""

    __slots__ = (
        "_args",
        "_end",
        "_handle",
        "_timeout",
        "_timer",
        "_what",
        "future",
        "in_flight",
        "lane",
        "sink",
    )

    def __init__(self, lane: Lane, args: tuple[Any, ...], timeout: float | None, what: str) -> None:
        self._end = _end_of_put(timeout)
        loop = asyncio.get_running_loop()
        self.in_flight = False
        self.future: asyncio.Future[None] = loop.create_future()
        self.sink = futures.sink_of(loop)
        self.lane = lane
        self._args = args
        self._timeout = timeout
        self._what = what
        self._handle = 0
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> asyncio.Future[None]:
        self.lane.enter(self)
        self.future.add_done_callback(self._done)
        left = left_until(self._end)
        if left is not None and not self.in_flight:
            self._timer = self.future.get_loop().call_later(left, self._give_up)
        return self.future

    def begin(self) -> bool:
        """Whoever's thread it is, and whatever that performs."""
        lane, left = self.lane, left_until(self._end)
        try:
            if self._handle == 0:
                self._handle = lane.access.native.start(
                    lane.verb, self._args, {}, left, DETACHED, 0, _answered, self
                )
        except Exception as error:
            self.sink([(self, RAISED, error)])
            return False
        return True

    def receive(self, what: int, value: Any) -> None:
        if self.future.done():
            return
        if what == RESULT:
            self.future.set_result(None)
        else:
            futures.set_failure(self.future, self.lane.failure(value, self._timeout, self._what))

    def end_unless_found(self, search: concurrent.futures.Future[None]) -> None:
        error = search.exception()
        if error is not None and self.lane.withdraw(self):
            self.sink([(self, RAISED, error)])

    def _give_up(self) -> None:
        if self.lane.withdraw(self):
            self.receive(RAISED, TimeoutError())

    def _done(self, future: asyncio.Future[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if future.cancelled() and not self.lane.withdraw(self):
            self.lane.leave(self)
            self.lane.access.native.cancel(self._handle)


def _answered(events: Sequence[tuple[_AsyncPut, int, Any]]) -> None:
    """On the dispatcher's thread: what waits is not to wait for an event loop that is busy."""
    for put, *_ in events:
        put.lane.leave(put)
    futures.tell(events)
