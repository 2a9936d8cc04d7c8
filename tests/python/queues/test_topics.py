"""Topics: everybody who has subscribed gets what is published, or knows what was dropped."""

import asyncio

import pytest

import isthmus

PATIENCE = 20


def test_each_message_of_a_topic_goes_to_all_who_have_subscribed(bus, other):
    topic = bus.topic("t")
    topic.publish("before")
    with other.topic("t").subscribe() as one, bus.topic("t").subscribe() as two:
        for i in range(300):
            topic.publish(i)
        for feed in (one, two):
            assert [feed.get(timeout=PATIENCE) for _ in range(300)] == list(range(300))
            assert feed.dropped == 0
    topic.publish("after")
    assert list(one) == []


def test_publishers_wait_for_a_full_subscriber(bus, other):
    topic = bus.topic("t")
    feed = other.topic("t").subscribe(depth=2)
    for i in range(4):  # two on the way, two kept
        topic.publish(i, timeout=PATIENCE)
    with pytest.raises(isthmus.TimeoutError, match="the topic 't' had no room"):
        topic.publish("withdrawn", timeout=0.05)
    bus.queue("q").stats()  # behind the cancel
    later = bus.submit("isthmus.topic.publish", 4, "t")
    assert feed.get() == 0
    later.result(PATIENCE)
    assert [feed.get(timeout=PATIENCE) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(isthmus.TimeoutError):
        feed.get(timeout=0.01)


def test_the_oldest_are_dropped_and_counted_where_that_is_wanted(bus, other):
    feed = other.topic("t").subscribe(on_full="drop-oldest", depth=3)
    for i in range(10):
        bus.topic("t").publish(i, timeout=PATIENCE)
    assert [feed.get() for _ in range(3)] == [0, 1, 2]
    assert feed.dropped == 0
    assert [feed.get() for _ in range(3)] == [7, 8, 9]
    assert feed.dropped == 4


def test_a_message_that_is_taken_back_is_counted_once(bus):
    """Else more would be let on their way than the subscriber has a place for."""
    t = bus.topic("t")
    with t.subscribe(depth=64) as news:
        feed = news._feed
        t.publish("first")
        for _ in range(8):
            item = feed.wait(PATIENCE)
            with feed.lock:
                feed.take_back(item)
        assert (news.get(timeout=PATIENCE), feed._fresh) == ("first", 1)


def test_a_dead_subscriber_holds_nobody_up(bus, child):
    subscriber = child()
    subscriber.do("subscribe", "wait", 1)
    bus.topic("t").publish(1)
    bus.topic("t").publish(2)
    waiting = bus.submit("isthmus.topic.publish", 3, "t")
    subscriber.kill()
    waiting.result(PATIENCE)


def test_topics_in_an_event_loop(bus, other):
    async def work() -> None:
        feed = other.topic("t").subscribe(depth=4)
        await asyncio.gather(*(bus.topic("t").publish_async(i) for i in range(8)))
        got = []
        async for value in feed:
            got.append(value)
            if value == 7:
                feed.close()
        assert got == list(range(8))

    asyncio.run(work())
