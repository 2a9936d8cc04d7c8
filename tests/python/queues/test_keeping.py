"""Who keeps queues, for whom and how long, and what is refused."""

import asyncio
import contextlib
import contextvars
import os
import time

import pytest

import isthmus

PATIENCE = 20


def test_a_bus_whose_queues_nobody_uses_has_no_keeper(bus):
    assert len(bus.peers()) == 2
    bus.queue("q").stats()
    bus.topic("t").publish(1)
    assert len(bus.peers()) == 3


def test_queues_that_nobody_uses_are_forgotten_when_there_are_many(bus, other):
    """As in a program that has one for each request."""
    kept, consumed = bus.queue("kept"), bus.queue("consumed")
    kept.put("a")
    consumed.put("b")
    consumer = other.queue("consumed")
    message = consumer.get()
    first = bus.queue("0")
    for i in range(3000):
        q = bus.queue(str(i), depth=2)
        q.put(i)
        with q, q.get() as own:
            assert own.value == i
    assert first.stats()["put"] == 0
    assert kept.stats()["waiting"] == consumed.stats()["unacknowledged"] == 1
    message.ack()
    assert consumer.stats()["acknowledged"] == 1


def test_a_forked_child_starts_no_keeper_of_its_own(bus, host, until):
    bus.queue("q").put("mine")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            isthmus.connect(host.name).queue("q").put("its own")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    q = bus.queue("q", prefetch=2)
    assert [q.get(timeout=PATIENCE).value for _ in range(2)] == ["mine", "its own"]


def test_the_names_of_the_machinery_are_hidden_and_reserved(bus, host):
    bus.queue("q").put(1)
    assert [name for peer in bus.peers() for name in peer["exports"] if name.startswith("isthmus")] == []
    with pytest.raises(isthmus.NotExported) as failed:
        bus.call("isthmus.queue.putt", 1)
    assert failed.value.close == []
    with pytest.raises(ValueError, match="reserved"):
        isthmus.export(name="isthmus.queue.put")(print)


def test_a_host_has_queues_too_and_its_exports_may_put(name):
    @isthmus.export(name="relay")
    def relay(value):
        host.queue("out").put(value)
        with pytest.raises(isthmus.Error, match="on the thread that its messages come by"):
            host.queue("out").get()

    with isthmus.Host(name) as host, isthmus.connect(name) as bus:
        bus.call("relay", {"a": 1})
        with bus.queue("out").get() as message:
            assert message.value == {"a": 1}
        host.queue("in").put(1)
        assert host.queue("in").get().value == 1


def test_what_an_export_has_begun_to_consume_outlives_its_call_and_its_time(name, until):
    begun = []

    @isthmus.export(name="begin", executor="threads")
    def begin() -> None:
        q = host.queue("q", prefetch=2)
        begun.append((q, q.get(), isthmus.current().deadline, contextvars.copy_context()))

    with isthmus.Host(name) as host, isthmus.connect(name) as bus:
        for value in range(2):
            bus.queue("q").put(value)
        bus.call("begin", timeout=1)
        [(q, message, deadline, context)] = begun
        until(lambda: time.monotonic() > deadline)
        context.run(message.ack)
        until(lambda: bus.queue("q").stats()["acknowledged"] == 1)
        assert q.get(timeout=PATIENCE).deliveries == 1


def test_an_export_may_be_the_first_who_uses_a_queue_by_a_bus_of_its_own(name):
    @isthmus.export(name="first")
    def first():
        with isthmus.connect(name) as own:
            own.queue("q").put("there")
            return own.queue("q").get(timeout=PATIENCE).value

    with isthmus.Host(name), isthmus.connect(name) as bus:
        assert bus.call("first", timeout=PATIENCE) == "there"


def test_another_depth_is_an_error_that_says_so(bus, other):
    bus.queue("q", depth=4).put(1)
    for operation in (lambda q: q.put(1), lambda q: q.get()):
        with pytest.raises(isthmus.PythonError, match="the queue 'q' has depth 4, and not 5"):
            operation(other.queue("q", depth=5))


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True])
def test_what_can_not_be_so_is_refused_at_once_and_nobody_is_asked(bus, value):
    for option in ("depth", "deliveries", "prefetch"):
        with pytest.raises(ValueError, match=f"{option} is a whole number from 1 on, and not {value!r}"):
            bus.queue("q", **{option: value})
    with pytest.raises(ValueError, match=f"depth is a whole number from 1 on, and not {value!r}"):
        bus.topic("t").subscribe(depth=value)
    with pytest.raises(ValueError, match=f"can wait or drop-oldest, and not {value!r}"):
        bus.topic("t").subscribe(on_full=value)
    assert len(bus.peers()) == 2  # no keeper


@pytest.mark.parametrize("wrong", [5, "", None])
def test_a_name_is_a_text(bus, wrong):
    with pytest.raises(TypeError, match="a queue has a text for a name"):
        bus.queue(wrong)
    with pytest.raises(TypeError, match="a topic has a text for a name"):
        bus.topic(wrong)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_that_is_none_is_refused(bus, timeout):
    q, news = bus.queue("q"), bus.topic("t").subscribe()

    async def main():
        await q.get_async(timeout=timeout)

    for use in (
        lambda: q.put(1, timeout=timeout),
        lambda: q.get(timeout=timeout),
        lambda: news.get(timeout=timeout),
        lambda: asyncio.run(main()),
    ):
        with pytest.raises(ValueError, match="a number of seconds from 0 on"):
            use()


def test_only_values_can_be_put(bus):
    q = bus.queue("q")
    with pytest.raises(isthmus.EncodeError) as failed:
        q.put({"rows": [1, print]})
    assert failed.value.path == "args[0].rows[1]"
    with pytest.raises(isthmus.EncodeError):
        bus.topic("t").publish(object())
    assert q.stats()["put"] == 0


def test_what_is_nested_too_deeply_to_be_handed_on_is_refused_at_once(bus, other):
    def nested(depth):
        return [nested(depth - 1)] if depth > 1 else []

    q = bus.queue("q")
    with pytest.raises(isthmus.PythonError, match="nested more than 127 deep"):
        q.put(nested(128))
    q.put(nested(127))
    assert other.queue("q").get(timeout=PATIENCE).value == nested(127)
