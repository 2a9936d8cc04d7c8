"""The peer that keeps a bus's queues and topics, in the process that holds the bus. It runs no user code."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from . import _isthmus
from ._isthmus import ITEMS
from .errors import PeerLost
from .peer import Peer
from .rules import DEAD, Consumer, Outbox, Queue, Subscriber, Topic, check_name, whole

__all__ = [
    "CONSUME",
    "PUBLISH",
    "PUT",
    "READY",
    "SETTLE",
    "STATS",
    "SUBSCRIBE",
    "Keeper",
    "own_starters",
    "start_own",
    "starter",
]

# What it exports. The names are reserved (`is_system` in the native part): no list shows them.
PUT = "isthmus.queue.put"
CONSUME = "isthmus.queue.consume"
SETTLE = "isthmus.queue.settle"
STATS = "isthmus.queue.stats"
READY = "isthmus.queue.ready"
PUBLISH = "isthmus.topic.publish"
SUBSCRIBE = "isthmus.topic.subscribe"

MOST_QUEUES = 1024  # idle ones among them are forgotten when there are more
LEAVES = -1  # as the number of wanted messages: the consumer wants none, and holds none

Place = tuple[int, int]  # a peer's slot, and its own number for a consumer


def starter(bus: str) -> str:
    """What the host that holds the bus exports, to have its keeper started by who first needs it."""
    return f"isthmus.keep:{bus}"


own_starters: dict[str, Callable[[], None]] = {}  # of the buses that this process holds
os.register_at_fork(after_in_child=own_starters.clear)


def start_own(bus: str) -> None:
    """Starts the keeper of a bus that this process holds. Raises PeerLost when it holds it no more."""
    start = own_starters.get(bus)
    if start is None:
        raise PeerLost(f"this process does not hold the bus '{bus}'")
    start()


class Keeper:
    """Serves the queues and topics of a bus until it is stopped, or the bus ends.

    Values pass through it as they came: nothing of them is decoded, and arrays stay where they are.
    """

    def __init__(self, bus: str) -> None:
        exports = _isthmus.Exports()
        for name, function, parcels in (
            (PUT, self._put, 1),
            (CONSUME, self._consume, 0),
            (SETTLE, self._settle, 0),
            (STATS, self._stats, 0),
            (READY, self._ready, 0),
            (PUBLISH, self._publish, 1),
            (SUBSCRIBE, self._subscribe, 0),
        ):
            exports.set(name, function, 1, parcels)
        self._peer = Peer(bus, exports, numpy_memory=False, system=True, label="isthmus queues")
        native = self._native = self._peer.native
        native.operator = None
        native.runner, native.canceller, native.on_credit = self._run, self._cancel, self._grant
        # All of it is used on the dispatcher's thread alone.
        self._outbox = Outbox()
        self._queues: dict[str, Queue] = {}
        self._most_queues = MOST_QUEUES
        self._topics: dict[str, Topic] = {}
        self._consumers: dict[Place, tuple[Queue, Consumer]] = {}
        self._subscribers: dict[Hashable, tuple[Topic, Subscriber]] = {}
        self._ends: dict[Hashable, Callable[[], object]] = {}  # what a call's cancellation leads to

    def start(self) -> None:
        """Joins the bus. Raises isthmus.ConnectError."""
        self._peer.start()

    def stop(self) -> None:
        """Leaves. What waits is gone; calls that were kept are answered with PeerLost."""
        self._peer.stop()

    # --- what the dispatcher tells ---

    def _run(self, batch: Sequence[_isthmus.Deferred]) -> None:
        for token, function, args, _, call in batch:
            self._perform(token, function, call, args or ())
        self._forget_idle_queues()
        self._tell()

    def _perform(
        self, token: Hashable, function: Callable[..., None], call: _isthmus.Call, args: Sequence[Any]
    ) -> None:
        try:
            function(token, call, *args)
        except Exception as error:
            self._outbox.failure(token, error.with_traceback(None))

    def _cancel(self, tokens: Sequence[Hashable]) -> None:
        for token in tokens:
            end = self._ends.pop(token, None)
            if end is not None:
                end()
        self._tell()

    def _grant(self, grants: Sequence[tuple[Hashable, int]]) -> None:
        for token, credit in grants:
            if token in self._subscribers:
                topic, subscriber = self._subscribers[token]
                topic.grant(subscriber, credit)
        self._tell()

    def _tell(self) -> None:
        outcomes = self._outbox.take()
        for token, what, _ in outcomes:
            if what != ITEMS:
                self._ends.pop(token, None)
        self._native.complete(outcomes)

    # --- what is called ---

    def _ready(self, token: Hashable, call: _isthmus.Call) -> None:
        self._outbox.result(token)

    def _queue(self, name: str, depth: Any = None, deliveries: Any = None) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            check_name("a queue", name)
            queue = self._queues[name] = Queue(name, self._outbox, lambda: self._queue(name + DEAD))
        if depth is not None or deliveries is not None:
            queue.agree(depth, deliveries)
        return queue

    def _forget_idle_queues(self) -> None:
        """For programs that have a queue for each request. The others keep their counts."""
        if len(self._queues) >= self._most_queues:
            self._queues = {name: queue for name, queue in self._queues.items() if not queue.is_idle}
            self._most_queues = max(MOST_QUEUES, 2 * len(self._queues))

    def _put(
        self, token: Hashable, call: _isthmus.Call, value: Any, name: str, depth: Any, deliveries: Any
    ) -> None:
        queue = self._queue(name, depth, deliveries)
        if not queue.put(token, value):
            self._ends[token] = partial(queue.withdraw, token)

    def _consume(
        self,
        token: Hashable,
        call: _isthmus.Call,
        name: str,
        depth: Any,
        deliveries: Any,
        prefetch: int,
        number: int,
        wanted: int,
    ) -> None:
        queue = self._queue(name, depth, deliveries)
        place = (call.slot, whole("number", number))
        if place in self._consumers:
            raise ValueError(f"this peer has a consumer with the number {number} already")
        consumer, wants = Consumer(token, whole("prefetch", prefetch, 1)), whole("wanted", wanted)
        self._consumers[place] = queue, consumer
        self._ends[token] = partial(self._end_consumer, place)
        queue.want(consumer, wants)

    def _settle(
        self,
        token: Hashable,
        call: _isthmus.Call,
        name: str,
        number: int,
        wanted: int,
        how: int,
        tags: Sequence[int],
    ) -> None:
        found = self._consumers.get(place := (call.slot, number))
        if found is None:
            self._queue(name).count_late(len(tags))
            self._outbox.result(token)
            return
        queue, consumer = found
        consumer.wanted = max(whole("wanted", wanted, LEAVES), 0)
        queue.settle(consumer, how, tags)
        if wanted == LEAVES:
            self._end_consumer(place)
        self._outbox.result(token)

    def _end_consumer(self, place: Place) -> None:
        queue, consumer = self._consumers.pop(place)
        queue.leave(consumer)
        self._outbox.end(consumer.token)

    def _stats(self, token: Hashable, call: _isthmus.Call, name: str, depth: Any, deliveries: Any) -> None:
        self._outbox.result(token, self._queue(name, depth, deliveries).stats())

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            check_name("a topic", name)
            topic = self._topics[name] = Topic(name, self._outbox)
        return topic

    def _publish(self, token: Hashable, call: _isthmus.Call, value: Any, name: str) -> None:
        topic = self._topic(name)
        if not topic.publish(token, value):
            self._ends[token] = partial(topic.withdraw, token)
        self._forget(topic)

    def _forget(self, topic: Topic) -> None:
        """Where nobody reads and nobody waits there is nothing to be kept."""
        if topic.is_idle:
            del self._topics[topic.name]

    def _subscribe(self, token: Hashable, call: _isthmus.Call, name: str, on_full: Any, depth: Any) -> None:
        topic = self._topic(name)
        subscriber = Subscriber(token, on_full, depth, call.credit - 1)
        self._subscribers[token] = topic, subscriber
        self._ends[token] = partial(self._end_subscriber, token)
        self._outbox.item(token, None)  # from now on
        topic.subscribe(subscriber)

    def _end_subscriber(self, token: Hashable) -> None:
        topic, subscriber = self._subscribers.pop(token)
        topic.leave(subscriber)
        self._outbox.end(token)
        self._forget(topic)
