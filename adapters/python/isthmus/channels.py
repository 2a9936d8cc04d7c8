"""Queues and topics, as those see them who put, get, publish and subscribe. ``keeper`` is the other side."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import futures
from ._isthmus import ITEMS, RAISED, RESULT, STREAMS
from .errors import Error, PeerLost, TimeoutError
from .keeper import CONSUME, LEAVES, PUBLISH, PUT, SETTLE, STATS, SUBSCRIBE
from .queues import ACKNOWLEDGED, DEAD, DEPTH, REJECTED, UNTOUCHED, WAIT

if TYPE_CHECKING:
    from .caller import Caller

__all__ = ["Message", "Queue", "Subscription", "Topic"]

CREDIT = 1 << 30  # items of a stream whose flow is ruled by what is wanted
MOST_ON_THE_WAY = 64  # messages to a subscriber
# What has no answer yet, of one queue or topic and of a connection to all of them. Some 1000 fit;
# acknowledgements go the same way, and must not wait for room behind them.
MOST_UNANSWERED = 64
MOST_UNANSWERED_IN_ALL = 256
SLICE = 1.0  # seconds: a signal that comes right before a wait is seen after it

Item = TypeVar("Item")


class _Closed(Error):
    """It was closed on this side."""


def _deliver(events: Sequence[tuple[_Intake[Any], int, Any]]) -> None:
    for intake, what, value in events:
        intake.receive(what, value)


class _Intake(Generic[Item]):
    """What a stream of the keeper brings, for any thread and any event loop to take.

    It does not know the object that the program has, so a stream ends when nobody can read it any more.
    """

    def __init__(self, caller: Caller, what: str) -> None:
        self.caller = caller
        self.native = caller._native()
        self.what = what
        # Guards what follows; held for moments, in which a queue that is dropped may close its intake.
        self.lock = threading.RLock()
        self.items: deque[Item] = deque()
        self.waiters: deque[Future[Item]] = deque()
        self.handle = 0
        self.failure: BaseException | None = None  # there is nothing to come

    def begin(self, name: str, args: tuple[Any, ...], credit: int) -> None:
        self.handle = self.native.start(name, args, {}, None, STREAMS, credit, _deliver, self)

    # --- with the lock held ---

    def taken(self, item: Item) -> None:
        """The program has it."""

    def adjust(self) -> None:
        """It is another number that wait, or another place that is free."""

    def give(self, item: Item) -> bool:
        """To who waits the longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if waiter.set_running_or_notify_cancel():
                self.taken(item)
                waiter.set_result(item)
                return True
        return False

    def arrive(self, items: Sequence[Item]) -> None:
        for item in items:
            if not self.give(item):
                self.items.append(item)

    def told(self, failure: BaseException) -> None:
        """The program knows of it."""

    def take_back(self, item: Item) -> None:
        """The program has not taken it after all."""
        if not self.give(item):
            self.items.appendleft(item)

    def fail(self, error: BaseException) -> None:
        self.failure = error
        while self.waiters:
            waiter = self.waiters.popleft()
            if waiter.set_running_or_notify_cancel():
                self.told(error)
                waiter.set_exception(error)

    # --- the dispatcher's thread ---

    def receive(self, what: int, value: Any) -> None:
        with self.lock:
            if self.failure is not None:
                return  # what was on its way when it was closed is for others
            if what == ITEMS:
                self.arrive(value)
            else:
                self.fail(PeerLost(f"{self.what} has ended") if what == RESULT else value)

    # --- any thread ---

    def ask(self) -> Item | Future[Item]:
        """The next item, or what will have it. Raises what has ended the stream."""
        with self.lock:
            if self.items:
                item = self.items.popleft()
                self.taken(item)
                return item
            if self.failure is not None:
                failure = self.failure
                self.told(failure)
                raise failure
            waiter: Future[Item] = Future()
            self.waiters.append(waiter)
            try:
                self.adjust()
            except BaseException:
                self.waiters.remove(waiter)
                raise
            return waiter

    def abandon(self, waiter: Future[Item], keep: bool) -> Item | None:
        """Waits no longer. An item that has come after all is given back, unless it is to be kept."""
        with self.lock:
            if waiter.cancel():
                with contextlib.suppress(ValueError):  # it was found to be cancelled already
                    self.waiters.remove(waiter)
                self.adjust()
                return None
            if keep:
                return waiter.result()
            if waiter.exception() is None:
                self.take_back(waiter.result())
            return None

    def wait(self, timeout: float | None) -> Item:
        """The next item. Signal handlers run meanwhile."""
        if self.caller._started().is_here:
            raise Error(
                f"{self.what} can't be waited for on the thread that its messages come by: use an export "
                'with executor="threads", or a coroutine'
            )
        waiter = self.ask()
        if not isinstance(waiter, Future):
            return waiter
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                left = SLICE if until is None else min(SLICE, max(until - time.monotonic(), 0))
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    return waiter.result(left)
                if until is not None and time.monotonic() >= until:
                    break
        except BaseException:
            self.abandon(waiter, keep=False)
            raise
        return self._in_the_last_moment(waiter, timeout)

    async def wait_async(self, timeout: float | None) -> Item:
        waiter = self.ask()
        if not isinstance(waiter, Future):
            return waiter
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiter), timeout)
        except asyncio.TimeoutError:
            return self._in_the_last_moment(waiter, timeout)
        except asyncio.CancelledError:
            self.abandon(waiter, keep=False)
            raise

    def _in_the_last_moment(self, waiter: Future[Item], timeout: float | None) -> Item:
        item = self.abandon(waiter, keep=True)
        if item is None:
            raise TimeoutError(f"{self.what} had no message within {timeout} s") from None
        return item


async def _with_keeper(caller: Caller) -> None:
    """Those who wait go on in the order in which they began to."""
    loop = asyncio.get_running_loop()
    finding = caller._finding_keeper.get(loop)
    if finding is None and not caller._has_keeper:
        finding = caller._finding_keeper[loop] = loop.run_in_executor(None, caller._ensure_keeper)
    if finding is not None:
        try:
            await asyncio.shield(finding)
        finally:
            if finding.done():
                caller._finding_keeper.pop(loop, None)


class _Put(Protocol):
    """What is sent to a queue or topic, from when it is asked for until it has its answer."""

    in_flight: bool

    def begin(self) -> bool:
        """It is its turn. False when nothing was sent. Must not wait."""


class _Lane:
    """What one connection sends to one queue or topic. What would be too many waits here, in order, and can
    be withdrawn without a word. Any thread.
    """

    def __init__(self, traffic: _Traffic) -> None:
        self._traffic = traffic
        self._unanswered = 0
        self._waiting: dict[_Put, None] = {}

    def enter(self, put: _Put) -> None:
        with self._traffic.lock:
            self._waiting[put] = None
            self._advance()

    def leave(self, put: _Put) -> bool:
        """It has its answer, or is given up. Whether it was still waiting for its turn."""
        with self._traffic.lock:
            if put in self._waiting:
                del self._waiting[put]
                return True
            if put.in_flight:
                put.in_flight = False
                self._unanswered -= 1
                self._traffic.unanswered -= 1
                self._advance()
            return False

    def _advance(self) -> None:
        while self._waiting and self._may_go():
            put = next(iter(self._waiting))
            del self._waiting[put]
            if put.begin():
                put.in_flight = True
                self._unanswered += 1
                self._traffic.unanswered += 1

    def _may_go(self) -> bool:
        """One always may, so that nobody waits for the answers of others alone."""
        if self._unanswered == 0:
            return True
        return self._unanswered < MOST_UNANSWERED and self._traffic.unanswered < MOST_UNANSWERED_IN_ALL


class _Traffic:
    """The lanes of one connection, each for as long as somebody sends by it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.unanswered = 0
        self._lanes: weakref.WeakValueDictionary[tuple[str, str], _Lane] = weakref.WeakValueDictionary()

    def lane(self, verb: str, name: str) -> _Lane:
        with self.lock:
            lane = self._lanes.get((verb, name))
            if lane is None:
                lane = self._lanes[verb, name] = _Lane(self)
            return lane


_traffics: weakref.WeakKeyDictionary[Caller, _Traffic] = weakref.WeakKeyDictionary()
_traffics_lock = threading.Lock()


def _lane_of(caller: Caller, verb: str, name: str) -> _Lane:
    with _traffics_lock:
        traffic = _traffics.get(caller)
        if traffic is None:
            traffic = _traffics[caller] = _Traffic()
    return traffic.lane(verb, name)


def _until(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError("timeout must be a number of seconds from 0 on, or None")
    return time.monotonic() + timeout


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0)


class _BlockingPut:
    """Of a thread that waits for it."""

    def __init__(self) -> None:
        self.in_flight = False
        self._turn = threading.Event()

    def begin(self) -> bool:
        self._turn.set()
        return True

    def wait(self, until: float | None) -> bool:
        """Whether its turn has come in time. Signal handlers run meanwhile."""
        while not self._turn.is_set():
            left = _left(until)
            if left == 0:
                return False
            self._turn.wait(SLICE if left is None else min(left, SLICE))
        return True


def _send(
    caller: Caller, verb: str, name: str, args: tuple[Any, ...], timeout: float | None, what: str
) -> None:
    caller._ensure_keeper()
    until = _until(timeout)
    lane, put = _lane_of(caller, verb, name), _BlockingPut()
    lane.enter(put)
    try:
        # The thread by which the answers come can't wait for them.
        if not caller._started().is_here and not put.wait(until):
            raise TimeoutError(f"nothing was sent within {timeout} s")
        caller._native().call(verb, args, {}, _left(until))
    except TimeoutError as error:
        raise TimeoutError(f"{what} had no room: {error}") from None
    finally:
        lane.leave(put)


class _AsyncPut:
    """Of an event loop, on whose thread it is made and told."""

    def __init__(self, caller: Caller, lane: _Lane, verb: str, args: tuple[Any, ...], what: str) -> None:
        loop = asyncio.get_running_loop()
        self.in_flight = False
        self.future: asyncio.Future[None] = loop.create_future()
        self.sink = futures.sink_of(loop)
        self.lane = lane
        self._native = caller._native()
        self._message = verb, args
        self._what = what
        self._handle = 0
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, timeout: float | None) -> asyncio.Future[None]:
        self._until = _until(timeout)
        self.lane.enter(self)
        self.future.add_done_callback(self._done)
        if timeout is not None and not self.in_flight:
            self._timer = self.future.get_loop().call_later(timeout, self._give_up, timeout)
        return self.future

    def begin(self) -> bool:
        verb, args = self._message
        try:
            self._handle = self._native.start(verb, args, {}, _left(self._until), 0, 0, _answered, self)
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
            late = isinstance(value, TimeoutError)
            self.future.set_exception(TimeoutError(f"{self._what} had no room: {value}") if late else value)

    def _give_up(self, timeout: float) -> None:
        if self.lane.leave(self):
            self.receive(RAISED, TimeoutError(f"nothing was sent within {timeout} s"))

    def _done(self, future: asyncio.Future[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if future.cancelled() and not self.lane.leave(self):
            self._native.cancel(self._handle)


def _answered(events: Sequence[tuple[_AsyncPut, int, Any]]) -> None:
    """On the dispatcher's thread: what waits is not to wait for an event loop that is busy."""
    told: dict[Any, list[tuple[Any, int, Any]]] = {}
    for event in events:
        put = event[0]
        told.setdefault(put.sink, []).append(event)
        put.lane.leave(put)
    for sink, list_ in told.items():
        sink(list_)


async def _begin_later(
    caller: Caller, verb: str, name: str, args: tuple[Any, ...], timeout: float | None, what: str
) -> None:
    await _with_keeper(caller)
    await _AsyncPut(caller, _lane_of(caller, verb, name), verb, args, what).enter(timeout)


def _begin(
    caller: Caller, verb: str, name: str, args: tuple[Any, ...], timeout: float | None, what: str
) -> Awaitable[None]:
    """Those that are begun one after the other arrive so, whenever they are awaited."""
    if caller._has_keeper and asyncio.get_running_loop() not in caller._finding_keeper:
        return _AsyncPut(caller, _lane_of(caller, verb, name), verb, args, what).enter(timeout)
    return asyncio.ensure_future(_begin_later(caller, verb, name, args, timeout, what))


# --- queues ------------------------------------------------------------------------------------------------

_Delivery = tuple[int, int, Any]  # tag, how often it was given out, value

_numbers = itertools.count(1)  # of consumers


class _Consumer(_Intake[_Delivery]):
    """Tells the keeper how many messages it wants: as many as are waited for, or, while a loop takes them, as
    many as it may hold.
    """

    def __init__(self, caller: Caller, name: str, agreed: tuple[Any, Any], prefetch: int) -> None:
        super().__init__(caller, f"the queue '{name}'")
        self._name = name
        self._agreed = agreed
        self._prefetch = prefetch
        self._number = next(_numbers)
        self._held: set[int] = set()  # tags of what the program has
        self._loops = 0
        self._wanted = self._received = self._fresh = 0

    def taken(self, item: _Delivery) -> None:
        self._held.add(item[0])

    def arrive(self, items: Sequence[_Delivery]) -> None:
        self._received += len(items)
        self._fresh += len(items)
        if self._fresh > CREDIT // 2:
            self.native.credit(self.handle, self._fresh)
            self._fresh = 0
        super().arrive(items)
        self._leave_untouched()

    def take_back(self, item: _Delivery) -> None:
        self._held.discard(item[0])
        super().take_back(item)
        self._leave_untouched()
        self.adjust()

    def fail(self, error: BaseException) -> None:
        self.items.clear()
        self._held.clear()
        if not isinstance(error, _Closed):
            self.handle = self._wanted = self._received = self._fresh = 0
            self._number = next(_numbers)
        super().fail(error)

    def told(self, failure: BaseException) -> None:
        """What can't be read here ends the stream, and is given out again: the next `get` begins anew."""
        if not isinstance(failure, _Closed):
            self.failure = None

    def adjust(self) -> None:
        wanted = self._wanted
        self._want()
        if self._wanted != wanted:
            self._tell(ACKNOWLEDGED, ())

    def _want(self) -> None:
        room = self._prefetch - len(self._held) - len(self.items)
        if self._loops == 0:
            room = min(room, len(self.waiters))
        self._wanted = self._received + max(room, 0)

    def _leave_untouched(self) -> None:
        """What nobody waits for (any more) is for others."""
        if self._loops == 0 and self.items:
            untouched = [tag for tag, *_ in self.items]
            self.items.clear()
            self._want()
            self._tell(UNTOUCHED, untouched)

    def _tell(self, how: int, tags: Sequence[int]) -> None:
        """It begins with the first message that is wanted."""
        if self.handle != 0:
            self.native.post(SETTLE, (self._name, self._number, self._wanted, how, tags))
        elif self._wanted > 0:
            self.begin(
                CONSUME, (self._name, *self._agreed, self._prefetch, self._number, self._wanted), CREDIT
            )

    # --- any thread ---

    def settle(self, tag: int, how: int) -> None:
        with self.lock:
            if tag not in self._held:
                raise Error(
                    f"{self.what} was closed, or lost, before the message was acknowledged: it went back, "
                    "and another consumer gets it"
                )
            self._held.remove(tag)
            self._want()
            try:
                self._tell(how, (tag,))
            except BaseException:
                self._held.add(tag)
                raise

    @contextlib.contextmanager
    def looping(self) -> Iterator[None]:
        self._loop(1)
        try:
            yield
        finally:
            self._loop(-1)

    def _loop(self, more: int) -> None:
        with self.lock:
            self._loops += more
            if self.failure is None:
                self._leave_untouched()
                self.adjust()

    def close(self) -> None:
        with self.lock:
            if self.failure is None and self.handle != 0:
                self._wanted = LEAVES
                with contextlib.suppress(Error):  # the bus was left, and nobody keeps anything
                    self._tell(UNTOUCHED, [tag for tag, *_ in self.items])
            self.fail(_Closed(f"{self.what} was closed here"))


class Message:
    """A message of a queue, kept there until it is acknowledged.

    ``value`` is what was put; arrays lie in the memory of the bus, and are read-only. ``deliveries`` is how
    often it was given out: from 2 on somebody had it before, and died or rejected it.

    ``with q.get() as message:`` acknowledges it at the end of the block, and rejects it when that raises.
    """

    __slots__ = ("_queue", "_settled", "_tag", "deliveries", "value")

    def __init__(self, queue: Queue, delivery: _Delivery) -> None:
        self._tag, self.deliveries, self.value = delivery
        self._queue = queue
        self._settled: str | None = None

    def ack(self) -> None:
        """It is dealt with: the queue forgets it. Does not wait. Raises isthmus.Error the second time."""
        self._settle(ACKNOWLEDGED, "acknowledged")

    def reject(self) -> None:
        """It is not dealt with: another consumer, or this one, gets it again, before later ones."""
        self._settle(REJECTED, "rejected")

    def _settle(self, how: int, name: str) -> None:
        if self._settled is not None:
            raise Error(f"the message was {self._settled} already")
        self._queue._consumer.settle(self._tag, how)
        self._settled = name

    def __enter__(self) -> Message:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settled is not None:
            return
        if error is None:
            self.ack()
            return
        with contextlib.suppress(Error):  # it went back by itself
            self.reject()

    def __repr__(self) -> str:
        state = f", {self._settled}" if self._settled else ""
        return f"<isthmus.Message of '{self._queue.name}', delivery {self.deliveries}{state}>"


class Queue:
    """A queue of a bus, made by ``Bus.queue`` or ``Host.queue``. Any thread and any event loop may use it.

    Each message goes to one consumer, and is kept until that acknowledges it. A consumer that dies, leaves or
    closes gives back what it has, which others get before what came later. What a producer puts arrives in
    that order. It consumes from the first ``get``, or loop over it, until ``close``; more than one may.
    """

    def __init__(
        self, caller: Caller, name: str, depth: int | None, prefetch: int, deliveries: int | None
    ) -> None:
        if not isinstance(prefetch, int) or prefetch < 1:
            raise ValueError(f"prefetch is a whole number from 1 on, and not {prefetch!r}")
        self.name = name
        self._caller = caller
        self._agreed = depth, deliveries
        self._consumer = _Consumer(caller, name, self._agreed, prefetch)

    # --- producing ---

    def put(self, value: Any, *, timeout: float | None = None) -> None:
        """Puts a value, and returns when the queue has taken it in: that is, when it has room.

        An array in bus memory is lent and not copied: don't change it before it was acknowledged. Raises
        isthmus.EncodeError for what has no value form, such as a function; TimeoutError when there was no
        room in time: it was not taken in then, unless that crossed with the answer; PeerLost when the bus
        ends.
        """
        args = value, self.name, *self._agreed
        _send(self._caller, PUT, self.name, args, timeout, f"the queue '{self.name}'")

    def put_async(self, value: Any, *, timeout: float | None = None) -> Awaitable[None]:
        """``put``, to be awaited in the running event loop. Cancelling what awaits it withdraws the value.

        Don't change the value before it was awaited: it is sent when it is its turn.
        """
        args = value, self.name, *self._agreed
        return _begin(self._caller, PUT, self.name, args, timeout, f"the queue '{self.name}'")

    # --- consuming ---

    def get(self, *, timeout: float | None = None) -> Message:
        """The next message, once there is one and this consumer may hold one more (``prefetch``).

        Raises isthmus.TimeoutError, PeerLost when the bus ends, Error when the queue is closed meanwhile.
        """
        self._caller._ensure_keeper()
        return self._message(self._consumer.wait(timeout))

    async def get_async(self, *, timeout: float | None = None) -> Message:
        """``get`` for the running event loop. A message that comes while it is cancelled is for others."""
        await _with_keeper(self._caller)
        return self._message(await self._consumer.wait_async(timeout))

    def _message(self, delivery: _Delivery) -> Message:
        tag, _, value = delivery
        try:
            _readable(value)
        except BaseException:
            with contextlib.suppress(Error):  # closed meanwhile
                self._consumer.settle(tag, REJECTED)
            raise
        return Message(self, delivery)

    def ack(self, message: Message) -> None:
        """The same as ``message.ack()``, for messages of this object. Raises isthmus.Error for others."""
        if message._queue is not self:
            raise Error(f"the message came from another object ('{message._queue.name}'): use message.ack()")
        message.ack()

    def __iter__(self) -> Iterator[Message]:
        """Messages, until the queue is closed. Each has to be acknowledged."""
        self._caller._ensure_keeper()
        with self._consumer.looping(), contextlib.suppress(_Closed):
            while True:
                yield self.get()

    async def __aiter__(self) -> AsyncIterator[Message]:
        await _with_keeper(self._caller)
        with self._consumer.looping(), contextlib.suppress(_Closed):
            while True:
                yield await self.get_async()

    def close(self) -> None:
        """Consumes no more: what it holds and has not acknowledged goes to others. The queue stays."""
        self._consumer.close()

    # --- about it ---

    @property
    def dead(self) -> Queue:
        """The queue of what was given out too often and never acknowledged: ``<name>.dead``."""
        return Queue(self._caller, self.name + DEAD, None, 1, None)

    def stats(self) -> dict[str, int]:
        """How many messages wait (``waiting``) and are with consumers (``unacknowledged``), how many it keeps
        at most (``depth``), and how many puts wait for room (``blocked``).

        And how many were ``put``, ``acknowledged``, ``redelivered`` and given up (``dead``) since it began;
        ``late`` is what was said of messages that the consumer had no longer.
        """
        self._caller._ensure_keeper()
        told: dict[str, int] = self._caller._native().call(STATS, (self.name, *self._agreed), {}, None)
        return told

    def __enter__(self) -> Queue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_consumer"):
            self.close()

    def __repr__(self) -> str:
        return f"<isthmus.Queue '{self.name}'>"


# --- topics ------------------------------------------------------------------------------------------------

# How many were dropped so far, value. The first item is None, which says that it has begun.
_News = tuple[int, Any]


class _Feed(_Intake[_News]):
    """Lets the keeper send as much as was taken."""

    def __init__(self, caller: Caller, name: str, on_full: str, depth: int) -> None:
        super().__init__(caller, f"the topic '{name}'")
        self.dropped = 0
        on_the_way = min(depth, MOST_ON_THE_WAY) if isinstance(depth, int) else 1
        self._enough = max(on_the_way // 2, 1)
        self._fresh = -1  # the first item is none
        self.begin(SUBSCRIBE, (name, on_full, depth), max(on_the_way, 1) + 1)

    def taken(self, item: _News | None) -> None:
        if item is not None:
            self.dropped = item[0]
        self._fresh += 1
        if self._fresh == self._enough and self.failure is None:
            self.native.credit(self.handle, self._fresh)
            self._fresh = 0

    def take_back(self, item: _News) -> None:
        self._fresh -= 1
        super().take_back(item)

    def close(self) -> None:
        with self.lock:
            if self.failure is None:
                self.native.cancel(self.handle)
            self.items.clear()
            self.fail(_Closed(f"{self.what} was closed here"))


def _readable(value: Any) -> Any:
    """The value. Raises why it can't be read here, which is in its place then."""
    if isinstance(value, BaseException):
        raise value
    return value


class Subscription:
    """The messages of a topic from ``Topic.subscribe`` on, for ``for`` or ``async for``, until ``close``.

    Leaving ``with``, or dropping it, closes it. Any thread and any event loop may take messages; each goes to
    one of them.
    """

    def __init__(self, caller: Caller, name: str, on_full: str, depth: int) -> None:
        self.name = name
        caller._ensure_keeper()
        self._feed = _Feed(caller, name, on_full, depth)
        self._feed.wait(None)

    @property
    def dropped(self) -> int:
        """How many messages it has missed before the one that it gave last."""
        return self._feed.dropped

    def get(self, *, timeout: float | None = None) -> Any:
        """The next message. Raises isthmus.TimeoutError, PeerLost when the bus ends, Error when closed."""
        return _readable(self._feed.wait(timeout)[1])

    async def get_async(self, *, timeout: float | None = None) -> Any:
        """``get`` for the running event loop."""
        return _readable((await self._feed.wait_async(timeout))[1])

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Any:
        try:
            return self.get()
        except _Closed:
            raise StopIteration from None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get_async()
        except _Closed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Takes no more. Nobody waits for it then."""
        self._feed.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_feed"):
            self.close()

    def __repr__(self) -> str:
        return f"<isthmus.Subscription to '{self.name}'>"


class Topic:
    """A topic of a bus, made by ``Bus.topic`` or ``Host.topic``. Any thread and any event loop may use it."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.name = name
        self._caller = caller

    def publish(self, value: Any, *, timeout: float | None = None) -> None:
        """Sends a value to all who have subscribed, and returns when each has it, or room for it.

        Where nobody has subscribed nothing is kept. Raises what ``Queue.put`` raises.
        """
        _send(self._caller, PUBLISH, self.name, (value, self.name), timeout, f"the topic '{self.name}'")

    def publish_async(self, value: Any, *, timeout: float | None = None) -> Awaitable[None]:
        """``publish``, to be awaited in the running event loop."""
        what = f"the topic '{self.name}'"
        return _begin(self._caller, PUBLISH, self.name, (value, self.name), timeout, what)

    def subscribe(self, *, on_full: str = WAIT, depth: int = DEPTH) -> Subscription:
        """Messages that are published from now on. ``depth`` of them are kept, besides those on the way, of
        which there are as many, and at most 64. When there are more, publishers ``"wait"``, or the oldest are
        dropped and counted (``"drop-oldest"``).
        """
        return Subscription(self._caller, self.name, on_full, depth)

    def __repr__(self) -> str:
        return f"<isthmus.Topic '{self.name}'>"
