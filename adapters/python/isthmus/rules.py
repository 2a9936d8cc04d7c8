"""What a keeper of queues and topics knows: which message waits, who has it, who publishes, who reads.

A token stands for a call that is still to be answered: a put that waits for room, a publisher that waits for
its readers, a consumer or a subscriber, which are streams. What is to be told goes to an ``Outbox``.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heappop, heappush
from numbers import Real
from typing import Any

from ._isthmus import END, ITEMS, RAISED, RESULT
from .errors import Cancelled

__all__ = [
    "ACKNOWLEDGED",
    "DEAD",
    "DEPTH",
    "REJECTED",
    "UNTOUCHED",
    "WAIT",
    "Outbox",
    "Queue",
    "Subscriber",
    "Topic",
    "check_name",
    "check_subscription",
    "seconds",
    "whole",
]

DEPTH = 256  # messages, where nobody says
DELIVERIES = 5  # likewise: how often a message is given out before it is taken for dead
DEAD = ".dead"  # what the name of the queue of the dead ends with

ACKNOWLEDGED, REJECTED, UNTOUCHED = range(3)  # what became of a message, as its consumer says


class Outbox:
    """What the calls that are kept are to be told, in order; the items of one stream in one piece."""

    def __init__(self) -> None:
        self._outcomes: list[tuple[Hashable, int, Any]] = []
        self._items: dict[Hashable, list[Any]] = {}

    def result(self, token: Hashable, value: Any = None) -> None:
        self._outcomes.append((token, RESULT, value))

    def failure(self, token: Hashable, error: BaseException) -> None:
        self._outcomes.append((token, RAISED, error))

    def item(self, token: Hashable, item: Any) -> None:
        items = self._items.get(token)
        if items is None:
            items = self._items[token] = []
            self._outcomes.append((token, ITEMS, items))
        items.append(item)

    def end(self, token: Hashable) -> None:
        self._outcomes.append((token, END, None))

    def take(self) -> list[tuple[Hashable, int, Any]]:
        outcomes, self._outcomes = self._outcomes, []
        self._items = {}
        return outcomes


def whole(name: str, value: Any, least: int = 0) -> int:
    """The value. Raises ValueError for what is no whole number from ``least`` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is a whole number from {least} on, and not {value!r}")
    return value


def seconds(name: str, value: Any) -> float:
    """The value. Raises TypeError for what is no number, ValueError for one that is no length of time."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds from 0 on, and not {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} is a number of seconds from 0 on, and not {value!r}")
    return float(value)


def check_name(what: str, name: Any) -> None:
    """Raises TypeError for what can't name a queue or a topic."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} has a text for a name, and not {name!r}")


# --- queues ------------------------------------------------------------------------------------------------


class Message:
    """``number`` counts what a queue has taken in; ``deliveries`` is how often it was given out."""

    __slots__ = ("deliveries", "number", "value")

    def __init__(self, number: int, value: Any) -> None:
        self.number = number
        self.value = value
        self.deliveries = 0


class Consumer:
    """Takes messages until ``wanted`` have been sent to it, and holds at most ``prefetch``, by their tags."""

    __slots__ = ("held", "is_ready", "prefetch", "sent", "token", "wanted")

    def __init__(self, token: Hashable, prefetch: int) -> None:
        self.token = token
        self.prefetch = prefetch
        self.wanted = self.sent = 0
        self.held: dict[int, Message] = {}
        self.is_ready = False  # whether it is among those who get the next messages

    def has_room(self) -> bool:
        return self.sent < self.wanted and len(self.held) < self.prefetch


_tags = itertools.count(1)  # each delivery has its own, so that a late word of one is known for what it is


class Queue:
    """Messages in the order in which they were taken in, each for one consumer, who gets the next one when it
    has said what became of those it has.

    ``kept`` messages, those that wait and those that consumers hold, are at most ``depth``; a put beyond that
    is answered when there is room. What was given out ``deliveries`` times in vain goes to the queue that
    ``dead`` makes.
    """

    def __init__(self, name: str, outbox: Outbox, dead: Callable[[], Queue]) -> None:
        self.name = name
        self._dead = dead
        self._outbox = outbox
        self._depth = DEPTH
        self._deliveries = DELIVERIES
        self._named: set[str] = set()  # of the two, those that somebody has named
        self._waiting: deque[Message] = deque()  # that were never given out, by number
        self._returned: list[
            tuple[int, Message]
        ] = []  # that were: a heap by number, all older than the others
        self._held = 0
        self._puts: OrderedDict[Hashable, Any] = OrderedDict()  # by token
        self._ready: deque[Consumer] = deque()  # who have room, in turn
        self._consumers: set[Consumer] = set()
        self._numbers = itertools.count()
        self._counts = dict.fromkeys(("put", "acknowledged", "redelivered", "dead", "late"), 0)

    def agree(self, depth: Any, deliveries: Any) -> None:
        """The first who names one of them decides. Raises ValueError for another one later."""
        named = {"depth": depth, "deliveries": deliveries}
        named = {name: whole(name, value, 1) for name, value in named.items() if value is not None}
        for name, value in named.items():
            known = getattr(self, f"_{name}")
            if value != known and name in self._named:
                raise ValueError(f"the queue '{self.name}' has {name} {known}, and not {value}")
        for name, value in named.items():
            self._named.add(name)
            setattr(self, f"_{name}", value)
        self._admit()

    @property
    def kept(self) -> int:
        return self._to_give() + self._held

    def _to_give(self) -> int:
        return len(self._returned) + len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in it, and nobody waits for anything."""
        return not (self.kept or self._puts or self._consumers)

    def stats(self) -> dict[str, int]:
        return {
            "waiting": self._to_give(),
            "unacknowledged": self._held,
            "blocked": len(self._puts),
            "depth": self._depth,
            **self._counts,
        }

    # --- producers ---

    def put(self, token: Hashable, value: Any) -> bool:
        """Whether it was taken in at once, and answered."""
        if self._puts or self.kept >= self._depth:
            self._puts[token] = value
            return False
        self._take_in(token, value)
        return True

    def withdraw(self, token: Hashable) -> bool:
        """The put waits no longer. False when it did not."""
        if token not in self._puts:
            return False
        del self._puts[token]
        self._outbox.failure(token, Cancelled("the put was cancelled"))
        return True

    def _take_in(self, token: Hashable, value: Any) -> None:
        self._outbox.result(token)
        self.add(value)

    def add(self, value: Any) -> None:
        """Takes a message in, whether there is room or not."""
        self._counts["put"] += 1
        self._waiting.append(Message(next(self._numbers), value))
        self._deliver()

    def _admit(self) -> None:
        while self._puts and self.kept < self._depth:
            self._take_in(*self._puts.popitem(last=False))

    # --- consumers ---

    def want(self, consumer: Consumer, wanted: int) -> None:
        """It wants so many in all, since it began."""
        self._consumers.add(consumer)
        consumer.wanted = wanted
        self._may_be_ready(consumer)
        self._deliver()

    def settle(self, consumer: Consumer, how: int, tags: Iterable[int]) -> None:
        """What became of messages. Words on those that it does not hold (any more) are counted."""
        for tag in tags:
            message = consumer.held.pop(tag, None)
            if message is None:
                self.count_late(1)
                continue
            self._held -= 1
            if how == ACKNOWLEDGED:
                self._counts["acknowledged"] += 1
            else:
                message.deliveries -= how == UNTOUCHED
                self._give_back(message)
        self._may_be_ready(consumer)
        self._deliver()
        self._admit()

    def count_late(self, words: int) -> None:
        """Words on messages that others have by now, or that are gone."""
        self._counts["late"] += words

    def leave(self, consumer: Consumer) -> None:
        """What it holds goes to others, before what came later."""
        consumer.wanted = 0
        self._consumers.discard(consumer)
        if consumer.is_ready:
            consumer.is_ready = False
            self._ready.remove(consumer)
        self._held -= len(consumer.held)
        for message in consumer.held.values():
            self._give_back(message)
        consumer.held.clear()
        self._deliver()
        self._admit()

    def _give_back(self, message: Message) -> None:
        if message.deliveries >= self._deliveries:
            self._counts["dead"] += 1
            self._dead().add(message.value)
            return
        heappush(self._returned, (message.number, message))

    def _may_be_ready(self, consumer: Consumer) -> None:
        if not consumer.is_ready and consumer.has_room():
            consumer.is_ready = True
            self._ready.append(consumer)

    def _deliver(self) -> None:
        waiting, returned, ready = self._waiting, self._returned, self._ready
        while ready and (returned or waiting):
            consumer = ready.popleft()
            if not consumer.has_room():
                consumer.is_ready = False
                continue
            message = heappop(returned)[1] if returned else waiting.popleft()
            message.deliveries += 1
            self._counts["redelivered"] += message.deliveries > 1
            tag = next(_tags)
            consumer.held[tag] = message
            consumer.sent += 1
            self._held += 1
            self._outbox.item(consumer.token, (tag, message.deliveries, message.value))
            if consumer.has_room():
                ready.append(consumer)
            else:
                consumer.is_ready = False


# --- topics ------------------------------------------------------------------------------------------------

WAIT, DROP_OLDEST = "wait", "drop-oldest"


def check_subscription(on_full: Any, depth: Any) -> None:
    """Raises ValueError for what can't be asked for."""
    if on_full not in (WAIT, DROP_OLDEST):
        raise ValueError(f"a full subscription can {WAIT} or {DROP_OLDEST}, and not {on_full!r}")
    whole("depth", depth, 1)


class Subscriber:
    """Gets every message of a topic, as far as it grants credit; ``depth`` more are kept for it."""

    __slots__ = ("buffer", "credit", "depth", "dropped", "drops", "token")

    def __init__(self, token: Hashable, on_full: Any, depth: Any, credit: int) -> None:
        check_subscription(on_full, depth)
        self.token = token
        self.drops = on_full == DROP_OLDEST
        self.depth = depth
        self.credit = credit
        self.dropped = 0
        self.buffer: deque[Any] = deque()

    def is_full(self) -> bool:
        return self.credit == 0 and len(self.buffer) >= self.depth


class Topic:
    """Messages for all who subscribe. A publisher is answered when each of them has the message, or room."""

    def __init__(self, name: str, outbox: Outbox) -> None:
        self.name = name
        self._outbox = outbox
        self._subscribers: dict[Hashable, Subscriber] = {}
        self._publishers: OrderedDict[Hashable, Any] = OrderedDict()  # who wait, by token

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self._subscribers.values())

    def publish(self, token: Hashable, value: Any) -> bool:
        """Whether it went out at once, and was answered."""
        if self._publishers or self._is_blocked():
            self._publishers[token] = value
            return False
        self._send(token, value)
        return True

    def withdraw(self, token: Hashable) -> bool:
        """The publisher waits no longer. False when it did not."""
        if token not in self._publishers:
            return False
        del self._publishers[token]
        self._outbox.failure(token, Cancelled("the message was cancelled"))
        self._admit()
        return True

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers[subscriber.token] = subscriber

    def grant(self, subscriber: Subscriber, credit: int) -> None:
        subscriber.credit += credit
        while subscriber.buffer and subscriber.credit > 0:
            self._give(subscriber, subscriber.buffer.popleft())
        self._admit()

    def leave(self, subscriber: Subscriber) -> None:
        """Nobody waits for it any more."""
        self._subscribers.pop(subscriber.token, None)
        self._admit()

    @property
    def is_idle(self) -> bool:
        """Whether nobody reads it, or waits to be read."""
        return not self._subscribers and not self._publishers

    def _is_blocked(self) -> bool:
        return any(each.is_full() for each in self if not each.drops)

    def _admit(self) -> None:
        while self._publishers and not self._is_blocked():
            self._send(*self._publishers.popitem(last=False))

    def _send(self, token: Hashable, value: Any) -> None:
        for subscriber in self:
            if subscriber.credit > 0:
                self._give(subscriber, value)
                continue
            if subscriber.is_full():
                subscriber.buffer.popleft()
                subscriber.dropped += 1
            subscriber.buffer.append(value)
        self._outbox.result(token)

    def _give(self, subscriber: Subscriber, value: Any) -> None:
        subscriber.credit -= 1
        self._outbox.item(subscriber.token, (subscriber.dropped, value))
