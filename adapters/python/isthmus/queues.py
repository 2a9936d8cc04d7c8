"""Queues, as those see them who put and get. ``keeper`` is the other side, ``rules`` what it goes by."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from types import TracebackType
from typing import Any

from .access import Access, Lane, Telling
from .closing import Closing
from .errors import Error
from .intake import Closed, Intake, readable
from .keeper import CONSUME, LEAVES, PUT, SETTLE, STATS
from .rules import ACKNOWLEDGED, DEAD, REJECTED, UNTOUCHED, whole

__all__ = ["Message", "Queue"]

CREDIT = 1 << 30  # items of a stream whose flow is ruled by what is wanted

_Delivery = tuple[int, int, Any]  # tag, how often it was given out, value

_numbers = itertools.count(1)  # of consumers


class _Consumer(Intake[_Delivery]):
    """Tells the keeper how many messages it wants: as many as are waited for, or, while a loop takes them, as
    many as it may hold.
    """

    def __init__(self, access: Access, name: str, agreed: tuple[Any, Any], prefetch: int) -> None:
        super().__init__(access, f"the queue '{name}'")
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
        if self.failure is not None:
            return  # it went back with the others
        super().take_back(item)
        self._leave_untouched()
        self.adjust()

    def fail(self, error: BaseException) -> None:
        self.items.clear()
        self._held.clear()
        if not isinstance(error, Closed):
            self.handle = self._wanted = self._received = self._fresh = 0
            self._number = next(_numbers)
        super().fail(error)

    def told(self, failure: BaseException) -> None:
        """What can't be read here ends the stream, and is given out again: the next `get` begins anew."""
        if not isinstance(failure, Closed):
            self.failure = None

    def adjust(self) -> None:
        wanted = self._wanted
        try:
            self._want()
            if self._wanted != wanted:
                self._tell(ACKNOWLEDGED, ())
        except BaseException:
            self._wanted = wanted  # nobody knows of more
            raise

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
        with self.lock:
            self._loops += 1
        try:
            self._adjust_to_loops()
            yield
        finally:
            with self.lock:
                self._loops -= 1
                self._adjust_to_loops()

    def _adjust_to_loops(self) -> None:
        with self.lock:
            if self.failure is None:
                self._leave_untouched()
                self.adjust()

    def close(self) -> None:
        with self.lock:
            if self.failure is None and self.handle != 0:
                self._wanted = LEAVES
                with contextlib.suppress(Error):  # the bus was left, and nobody keeps anything
                    self._tell(UNTOUCHED, [tag for tag, *_ in self.items])
            self.fail(Closed(f"{self.what} was closed here"))


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


class Queue(Closing):
    """A queue of a bus, made by ``Bus.queue`` or ``Host.queue``. Any thread and any event loop may use it.

    Each message goes to one consumer, and is kept until that acknowledges it. A consumer that dies, leaves or
    closes gives back what it has, which others get before what came later. What a producer puts arrives in
    that order. It consumes from the first ``get``, or loop over it, until ``close``; more than one may.
    """

    def __init__(
        self, access: Access, name: str, depth: int | None, prefetch: int, deliveries: int | None
    ) -> None:
        for option, value in {"depth": depth, "deliveries": deliveries}.items():
            if value is not None:
                whole(option, value, 1)
        whole("prefetch", prefetch, 1)
        self.name = name
        self._access = access
        self._agreed = depth, deliveries
        self._lane: Lane = access.lane(PUT, name)
        self._consumer = _Consumer(access, name, self._agreed, prefetch)
        self._getting = Telling(access, f"get from {self._consumer.what}")

    # --- producing ---

    def put(self, value: Any, *, timeout: float | None = None) -> None:
        """Puts a value, and returns when the queue has taken it in: that is, when it has room.

        An array in bus memory is lent and not copied: don't change it before it was acknowledged. Raises
        isthmus.EncodeError for what has no value form, such as a function; TimeoutError when there was no
        room in time: it was not taken in then, unless that crossed with the answer; PeerLost when the bus
        ends.
        """
        self._lane.send((value, self.name, *self._agreed), timeout, self._consumer.what)

    def put_async(self, value: Any, *, timeout: float | None = None) -> Awaitable[None]:
        """``put``, to be awaited in the running event loop. Cancelling what awaits it withdraws the value.

        Don't change the value before it was awaited: it is sent when it is its turn.
        """
        return self._lane.begin((value, self.name, *self._agreed), timeout, self._consumer.what)

    # --- consuming ---

    def get(self, *, timeout: float | None = None) -> Message:
        """The next message, once there is one and this consumer may hold one more (``prefetch``).

        With a timeout of 0 it is one that waits there by now. Raises isthmus.TimeoutError, PeerLost when the
        bus ends, Error when the queue is closed meanwhile.
        """
        with self._getting:
            return self._message(self._consumer.wait(timeout))

    async def get_async(self, *, timeout: float | None = None) -> Message:
        """``get`` for the running event loop. A message that comes while it is cancelled is for others."""
        with self._getting:
            return self._message(await self._consumer.wait_async(timeout))

    def _message(self, delivery: _Delivery) -> Message:
        tag, _, value = delivery
        try:
            readable(value)
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
        with self._getting:
            self._access.ensure()
            with self._consumer.looping(), contextlib.suppress(Closed):
                while True:
                    yield self._message(self._consumer.wait(None))

    async def __aiter__(self) -> AsyncIterator[Message]:
        with self._getting:
            await self._access.ensure_async()
            with self._consumer.looping(), contextlib.suppress(Closed):
                while True:
                    yield self._message(await self._consumer.wait_async(None))

    def close(self) -> None:
        """Consumes no more: what it holds and has not acknowledged goes to others. The queue stays."""
        self._consumer.close()

    # --- about it ---

    @property
    def dead(self) -> Queue:
        """The queue of what was given out too often and never acknowledged: ``<name>.dead``."""
        return Queue(self._access, self.name + DEAD, None, 1, None)

    def stats(self) -> dict[str, int]:
        """How many messages wait (``waiting``) and are with consumers (``unacknowledged``), how many it keeps
        at most (``depth``), and how many puts wait for room (``blocked``).

        And how many were ``put``, ``acknowledged``, ``redelivered`` and given up (``dead``) since it began;
        ``late`` is what was said of messages that the consumer had no longer.
        """
        with Telling(self._access, f"stats of {self._consumer.what}"):
            self._access.ensure()
            told: dict[str, int] = self._access.native.call(STATS, (self.name, *self._agreed), {}, None)
        return told

    def __del__(self) -> None:
        if hasattr(self, "_consumer"):
            self.close()

    def __repr__(self) -> str:
        return f"<isthmus.Queue '{self.name}'>"
