"""What a keeper decides, without a bus: after every step of a random walk all must hold that is promised."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus._isthmus import END, ITEMS, RAISED, RESULT
from isthmus.rules import ACKNOWLEDGED, REJECTED, UNTOUCHED, Consumer, Outbox, Queue, Subscriber, Topic

DEPTH, DELIVERIES, PREFETCH = 5, 3, 2
NAMES = range(3)  # of producers, and of consumers


def play(walk: "QueueWalk | TopicWalk", steps: list[tuple]) -> None:
    """Takes the steps, and then has everyone leave; what is promised holds after each."""
    for verb, *arguments in [*steps, *(("leave", name) for name in NAMES)]:
        getattr(walk, verb)(*arguments)
        walk.check()


queue_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES)),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
        st.tuples(st.just("want"), st.sampled_from(NAMES), st.integers(0, 4)),
        st.tuples(
            st.just("settle"),
            st.sampled_from(NAMES),
            st.integers(0, 3),
            st.sampled_from([ACKNOWLEDGED, REJECTED, UNTOUCHED]),
        ),
        st.tuples(st.just("leave"), st.sampled_from(NAMES)),
    ),
    max_size=120,
)


class QueueWalk:
    """A queue, and what its producers and consumers have been told."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.dead = Queue("q.dead", self.outbox, lambda: self.dead)
        self.queue = Queue("q", self.outbox, lambda: self.dead)
        self.queue.agree(DEPTH, DELIVERIES)
        self.asked: list[tuple[int, int]] = []  # puts, as (producer, number), in order
        self.waiting: list[tuple[int, int]] = []  # those of them that have no answer yet
        self.accepted: list[tuple[int, int]] = []
        self.withdrawn: set[tuple[int, int]] = set()
        self.consumers: dict[int, Consumer] = {}
        self.holds: dict[int, dict[int, tuple[int, int]]] = {}  # by consumer, what each tag is
        self.deliveries: Counter[tuple[int, int]] = Counter()
        self.first: list[tuple[int, int]] = []  # in the order in which they were first given out
        self.acknowledged: Counter[tuple[int, int]] = Counter()
        self.lives = 0

    def put(self, producer: int) -> None:
        value = producer, len(self.asked)
        self.asked.append(value)
        self.waiting.append(value)
        self.queue.put(("put", value), value)

    def withdraw(self, at: int) -> None:
        if at < len(self.waiting):
            value = self.waiting[at]
            assert self.queue.withdraw(("put", value))
            self.withdrawn.add(value)

    def want(self, name: int, more: int) -> None:
        if name not in self.consumers:
            self.lives += 1
            self.consumers[name] = Consumer(("consumer", name, self.lives), PREFETCH)
            self.holds[name] = {}
        consumer = self.consumers[name]
        self.queue.want(consumer, consumer.sent + more)

    def settle(self, name: int, at: int, how: int) -> None:
        held = self.holds.get(name, {})
        if at >= len(held):
            return
        tag = sorted(held)[at]
        value = held.pop(tag)
        if how == ACKNOWLEDGED:
            self.acknowledged[value] += 1
        self.deliveries[value] -= how == UNTOUCHED
        late = self.queue.stats()["late"]
        self.queue.settle(self.consumers[name], how, [tag])
        self.learn()
        self.queue.settle(self.consumers[name], how, [tag])  # a second word changes nothing
        assert self.queue.stats()["late"] == late + 1

    def leave(self, name: int) -> None:
        if name in self.consumers:
            consumer = self.consumers.pop(name)
            del self.holds[name]
            self.queue.leave(consumer)
            assert not consumer.held

    def learn(self) -> None:
        """What was told meanwhile."""
        for token, what, value in self.outbox.take():
            kind, who, *_ = token
            if kind == "put":
                assert what == (RAISED if who in self.withdrawn else RESULT)
                self.waiting.remove(who)
                if what == RESULT:
                    self.accepted.append(who)
                continue
            assert what == ITEMS
            for tag, deliveries, message in value:
                assert self.consumers[who].token == token, "what has left is given nothing"
                self.holds[who][tag] = message
                self.deliveries[message] += 1
                assert deliveries == self.deliveries[message] <= DELIVERIES
                if message not in self.first:
                    self.first.append(message)

    def check(self) -> None:
        self.learn()
        stats = self.queue.stats()
        held = [message for holds in self.holds.values() for message in holds.values()]
        assert max(Counter(held).values(), default=1) == 1, "nothing is with two at once"
        assert all(len(holds) <= PREFETCH for holds in self.holds.values())
        assert stats["unacknowledged"] == len(held)
        assert max(self.acknowledged.values(), default=1) == 1
        # Nothing is lost, and nothing is there twice.
        dead = self.dead.stats()["waiting"]
        assert len(self.accepted) == stats["put"]
        assert stats["put"] == stats["waiting"] + len(held) + sum(self.acknowledged.values()) + dead
        assert dead == stats["dead"]
        # Back-pressure, and no more of it than has to be.
        assert self.queue.kept <= DEPTH
        assert not self.waiting or self.queue.kept == DEPTH
        # Whoever has room has what there is.
        assert not stats["waiting"] or not any(each.has_room() for each in self.consumers.values())
        # The order of what was put, and of what is given out.
        assert self.accepted == [value for value in self.asked if value in set(self.accepted)]
        assert self.first == sorted(self.first, key=self.accepted.index)


@settings(max_examples=300, deadline=None)
@given(queue_steps)
def test_a_queue_keeps_its_promises_after_every_step(steps):
    walk = QueueWalk()
    play(walk, steps)
    # Who comes then gets all the rest, in order.
    rest = []
    while walk.queue.stats()["waiting"]:
        walk.want(0, 1)
        walk.check()
        rest += walk.holds[0].values()
        walk.settle(0, 0, ACKNOWLEDGED)
        walk.check()
    assert rest == sorted(rest, key=walk.accepted.index)
    assert not walk.waiting


def test_what_two_consumers_leave_is_in_order_whoever_leaves_first():
    for first, second in ((0, 1), (1, 0)):
        walk = QueueWalk()
        for name in (0, 1):
            walk.want(name, 2)
        for _ in range(4):
            walk.put(0)
            walk.check()
        assert len(walk.holds[0]) == len(walk.holds[1]) == 2
        for name in (first, second):
            walk.leave(name)
            walk.check()
        walk.want(2, 2)
        walk.check()
        assert [number for _, number in walk.holds[2].values()] == [0, 1]


def test_depth_and_deliveries_are_decided_by_the_first_who_names_them():
    queue = Queue("q", Outbox(), lambda: queue)
    queue.agree(None, None)
    queue.agree(3, None)
    queue.agree(3, 256)
    queue.agree(None, None)
    with pytest.raises(ValueError, match="'q' has depth 3, and not 4"):
        queue.agree(4, None)
    with pytest.raises(ValueError, match="'q' has deliveries 256, and not 5"):
        queue.agree(None, 5)
    for wrong in (0, -1, 1.5, True, "3"):
        with pytest.raises(ValueError, match="depth is a whole number from 1 on"):
            Queue("r", Outbox(), lambda: queue).agree(wrong, None)


def test_a_queue_that_is_named_deeper_later_takes_in_what_waits():
    outbox = Outbox()
    queue = Queue("q", outbox, lambda: queue)
    for i in range(257):
        queue.put(i, i)
    assert [token for token, *_ in outbox.take()] == list(range(256))
    queue.agree(300, None)
    assert [token for token, *_ in outbox.take()] == [256]


# --- topics ------------------------------------------------------------------------------------------------

topic_steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish")),
        st.tuples(st.just("withdraw"), st.integers(0, 5)),
        st.tuples(st.just("subscribe"), st.sampled_from(NAMES), st.booleans(), st.integers(1, 3)),
        st.tuples(st.just("grant"), st.sampled_from(NAMES), st.integers(1, 3)),
        st.tuples(st.just("leave"), st.sampled_from(NAMES)),
    ),
    max_size=120,
)


class TopicWalk:
    """A topic, and for each subscriber what it was sent, and what went out while it was subscribed."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.topic = Topic("t", self.outbox)
        self.published = 0
        self.waiting: list[int] = []
        self.out: list[int] = []
        self.subscribers: dict[int, Subscriber] = {}
        self.since: dict[int, int] = {}  # how many were out when it subscribed
        self.got: dict[int, list[tuple[int, int]]] = {}

    def publish(self) -> None:
        self.published += 1
        self.waiting.append(self.published)
        self.topic.publish(("publish", self.published), self.published)

    def withdraw(self, at: int) -> None:
        if at < len(self.waiting):
            assert self.topic.withdraw(("publish", self.waiting[at]))

    def subscribe(self, name: int, drops: bool, depth: int) -> None:
        if name not in self.subscribers:
            on_full = "drop-oldest" if drops else "wait"
            self.subscribers[name] = Subscriber(("subscriber", name), on_full, depth, 0)
            self.since[name] = len(self.out)
            self.got[name] = []
            self.topic.subscribe(self.subscribers[name])

    def grant(self, name: int, credit: int) -> None:
        if name in self.subscribers:
            self.topic.grant(self.subscribers[name], credit)

    def leave(self, name: int) -> None:
        if name in self.subscribers:
            self.topic.leave(self.subscribers.pop(name))

    def check(self) -> None:
        for (kind, who), what, value in self.outbox.take():
            if kind == "subscriber":
                assert what == ITEMS
                self.got[who] += value
                continue
            self.waiting.remove(who)
            if what == RESULT:
                self.out.append(who)
        assert self.out == sorted(self.out)
        for name, subscriber in self.subscribers.items():
            sent = self.out[self.since[name] :]
            got = [value for _, value in self.got[name]]
            kept = list(subscriber.buffer)
            assert len(kept) <= subscriber.depth
            assert not kept or subscriber.credit == 0
            assert kept == sent[len(sent) - len(kept) :], "what is kept is the newest"
            assert len(got) + len(kept) + subscriber.dropped == len(sent)
            assert got == sorted(got)
            assert all(value in sent for value in got)
            for missed, value in self.got[name]:
                assert missed == len([x for x in sent if x < value and x not in got])
            assert subscriber.drops or subscriber.dropped == 0
        full = [each for each in self.subscribers.values() if not each.drops and each.is_full()]
        assert bool(full) or not self.waiting, "nobody waits for nothing"


@settings(max_examples=300, deadline=None)
@given(topic_steps)
def test_a_topic_keeps_its_promises_after_every_step(steps):
    walk = TopicWalk()
    play(walk, steps)
    assert not walk.waiting


def test_a_subscription_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="can wait or drop-oldest, and not 'drop'"):
        Subscriber(1, "drop", 1, 0)
    with pytest.raises(ValueError, match="depth is a whole number from 1 on, and not 0"):
        Subscriber(1, "wait", 0, 0)


def test_the_items_of_one_stream_are_told_in_one_piece():
    outbox = Outbox()
    outbox.item("a", 1)
    outbox.item("b", 2)
    outbox.item("a", 3)
    outbox.end("a")
    assert outbox.take() == [("a", ITEMS, [1, 3]), ("b", ITEMS, [2]), ("a", END, None)]
    outbox.item("a", 4)
    assert outbox.take() == [("a", ITEMS, [4])]
