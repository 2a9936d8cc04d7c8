"""Queues and topics between Python peers, with producers and consumers that die at every step."""

import asyncio
import contextlib
import contextvars
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import isthmus
from isthmus import intake, queues

PATIENCE = 20


class Child:
    """A process of its own that does what it is told."""

    def __init__(self, name: str, prefetch: int = 1) -> None:
        program = Path(__file__).parent.with_name("queue_peer.py")
        command = [sys.executable, str(program), name, str(prefetch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.answer() == "there"

    def tell(self, *words: object) -> None:
        self.process.stdin.write(json.dumps(words) + "\n")

    def answer(self) -> object:
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def do(self, *words: object) -> object:
        self.tell(*words)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def child(name: str) -> Iterator[Callable[..., Child]]:
    children = []

    def child(prefetch: int = 1) -> Child:
        children.append(Child(name, prefetch))
        return children[-1]

    yield child
    for each in children:
        with contextlib.suppress(BrokenPipeError):
            each.close()


@pytest.fixture
def host(name: str) -> Iterator[isthmus.Host]:
    with isthmus.Host(name) as host:
        yield host


@pytest.fixture
def bus(host: isthmus.Host) -> Iterator[isthmus.Bus]:
    with isthmus.connect(host.name) as bus:
        yield bus


@pytest.fixture
def other(host: isthmus.Host) -> Iterator[isthmus.Bus]:
    with isthmus.connect(host.name) as bus:
        yield bus


# --- queues ------------------------------------------------------------------------------------------------


def test_what_is_put_comes_out_as_it_went_in_and_is_gone_once_it_is_acknowledged(bus, other):
    values = [None, True, 7, -2.5, "é\ud800", 2**80, [1, [2]], {"a": {"b": ()}}, b"bytes", {1, 2}]
    for value in values:
        bus.queue("q").put(value)
    with other.queue("q", prefetch=3) as q:
        for value in values:
            message = q.get()
            assert message.value == ([1, [2]] if value == [1, [2]] else value)
            assert message.deliveries == 1
            q.ack(message)
    counts = {"put": 10, "acknowledged": 10, "redelivered": 0, "dead": 0, "late": 0}
    assert q.stats() == {"waiting": 0, "unacknowledged": 0, "blocked": 0, "depth": 256, **counts}


def test_a_get_that_may_take_no_time_gets_what_waits_there(bus, other):
    q = other.queue("q", prefetch=100)
    for i in range(100):
        bus.queue("q").put(i)
        assert q.get(timeout=0).value == i
        with pytest.raises(isthmus.TimeoutError, match="the queue 'q' had no message"):
            q.get(timeout=0)

    async def main():
        for i in range(100):
            bus.queue("r").put(i)
            message = await asyncio.wait_for(r.get_async(timeout=0), PATIENCE)
            assert message.value == i
            message.ack()
            with pytest.raises(isthmus.TimeoutError):
                await r.get_async(timeout=0)

    r = other.queue("r")
    asyncio.run(main())
    with other.topic("t").subscribe() as subscription:
        with pytest.raises(isthmus.TimeoutError):
            subscription.get(timeout=0)
        bus.topic("t").publish("here")
        assert subscription.get(timeout=0) == "here"


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


def test_a_consumer_gives_back_what_it_holds_when_its_block_ends(bus, other):
    async def hold():
        async with bus.queue("q") as q:
            return await q.get_async(timeout=PATIENCE)

    other.queue("q").put(1)
    with bus.queue("q") as q:
        assert q.get().deliveries == 1
    assert asyncio.run(hold()).deliveries == 2
    assert other.queue("q").get(timeout=PATIENCE).deliveries == 3


def test_nothing_is_lost_when_idle_queues_are_forgotten_while_messages_go_back(bus, other):
    for i in range(1024):
        bus.queue(f"other {i}").put(i)
    q = other.queue("q", prefetch=2, deliveries=2)
    bus.queue("q").put("given up")
    bus.queue("q").put("given back")
    q.get().reject()
    assert [q.get().value, q.get().value] == ["given up", "given back"]
    q.close()
    assert bus.queue("q").get(timeout=PATIENCE).value == "given back"
    assert bus.queue("q").dead.get(timeout=PATIENCE).value == "given up"


def test_a_message_for_a_loop_that_is_closed_goes_to_others(bus, other):
    async def begin():
        tasks.append(asyncio.ensure_future(bus.queue("q").get_async()))
        await asyncio.sleep(0.1)

    tasks = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    other.queue("q").put("hello")
    time.sleep(0.1)  # it has come, and nobody has looked
    tasks.pop()._log_destroy_pending = False
    loop.close()
    del loop
    gc.collect()
    assert other.queue("q").get(timeout=PATIENCE).value == "hello"


def test_a_get_that_may_take_no_time_does_not_wait_for_a_keeper_that_is_stopped(serve, name):
    served = serve("import isthmus").ready()
    with isthmus.connect(name) as bus:
        q = bus.queue("q")
        q.stats()
        served.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(isthmus.TimeoutError, match="the queue 'q' had no message"):
                q.get(timeout=0)
        finally:
            served.process.send_signal(signal.SIGCONT)


def test_an_interrupt_at_any_step_of_a_get_leaves_the_consumer_able_to_get(bus, other):
    steps = [intake.Intake.wait.__code__, queues._Consumer.adjust.__code__]
    for line in range(60):
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code in steps:
                if event == "line":
                    left -= 1
                    if left < 0:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return trace
            return None

        with other.queue(f"q{line}") as q:
            sys.settrace(trace)
            try:
                with pytest.raises((isthmus.TimeoutError, KeyboardInterrupt)):
                    q.get(timeout=0.01)
            finally:
                sys.settrace(None)
            bus.queue(q.name).put(line)
            assert q.get(timeout=PATIENCE).value == line


def test_who_comes_when_the_keeper_has_just_been_found_goes_behind_those_who_have_waited(bus, other):
    async def main():
        q = bus.queue("q")
        puts = [q.put_async(i) for i in range(3)]
        await asyncio.sleep(0)
        finding = bus._access._finding[asyncio.get_running_loop()]
        finding.future.add_done_callback(lambda done: puts.append(q.put_async(3)))
        await puts[0]
        await asyncio.gather(*puts)

    asyncio.run(main())
    with other.queue("q", prefetch=4) as q:
        assert [q.get(timeout=PATIENCE).value for _ in range(4)] == [0, 1, 2, 3]


def test_each_message_goes_to_one_of_several_consumers(bus, other, until):
    with ThreadPoolExecutor() as threads:

        def consume(q: isthmus.Queue) -> list[int]:
            got = []
            for message in q:
                got.append(message.value)
                message.ack()
            return got

        queues = [one.queue("q", prefetch=4) for one in (bus, other, bus)]
        jobs = [threads.submit(consume, q) for q in queues]
        source = other.queue("q", depth=20)
        for i in range(1000):
            source.put(i, timeout=PATIENCE)
        until(lambda: source.stats()["acknowledged"] == 1000)
        for q in queues:
            q.close()
        got = [job.result(PATIENCE) for job in jobs]
    assert sorted(value for each in got for value in each) == list(range(1000))
    assert all(each == sorted(each) for each in got)


@pytest.mark.parametrize("step", ["got", "working", "rejected", "closed"])
def test_a_message_goes_to_another_consumer_when_its_own_is_gone_before_the_acknowledgement(bus, child, step):
    bus.queue("q").put("first")
    bus.queue("q").put("second")
    first = child(prefetch=2)
    assert first.do("get") == ["first", 1]
    if step != "got":
        assert first.do("get") == ["second", 1]
    if step == "rejected":
        first.do("reject")
    if step == "closed":
        first.do("close")
    else:
        first.kill()
    with bus.queue("q", prefetch=2) as q:
        got = [(message.value, message.deliveries) for message in (q.get(), q.get())]
    assert got == [("first", 2), ("second", 1 if step == "got" else 2)]


def test_what_was_acknowledged_right_before_death_is_not_given_out_again(bus, child, until):
    q = bus.queue("q", prefetch=2)
    for i in range(4):
        q.put(i)
    consumer = child(prefetch=3)
    assert [consumer.do("get") for _ in range(3)] == [[0, 1], [1, 1], [2, 1]]
    consumer.do("ack")
    until(lambda: q.stats()["acknowledged"] == 1)
    consumer.kill()
    assert [q.get().value, q.get().value] == [1, 2]
    assert q.stats()["acknowledged"] == 1


def test_what_is_given_out_too_often_is_dead(bus, child):
    q = bus.queue("q", deliveries=3)
    q.put({"poison": 1})
    q.put("fine")
    for count in (1, 2):
        consumer = child()
        assert consumer.do("get") == [{"poison": 1}, count]
        consumer.kill()
    message = q.get()
    assert message.deliveries == 3
    with pytest.raises(ZeroDivisionError), message:
        raise ZeroDivisionError
    with q.get() as message:
        assert (message.value, message.deliveries) == ("fine", 1)
    with q.dead.get() as message:
        assert (message.value, message.deliveries) == ({"poison": 1}, 1)
    stats = q.stats()
    assert (stats["dead"], stats["redelivered"], stats["acknowledged"]) == (1, 2, 1)
    assert q.dead.name == "q.dead"


def test_a_full_queue_makes_producers_wait_and_takes_them_in_order(bus, other):
    q = bus.queue("q", depth=2)
    q.stats()
    asked = [bus.submit("isthmus.queue.put", i, "q", None, None) for i in range(6)]
    for future in asked[:2]:
        future.result(PATIENCE)
    assert q.stats()["put"] == 2
    with pytest.raises(isthmus.TimeoutError, match="the queue 'q' had no room"):
        other.queue("q").put("late", timeout=0.05)
    other.queue("q").stats()  # behind the cancel
    assert asked[3].cancel()
    q.stats()
    with other.queue("q") as consumer:
        got = []
        for message in consumer:
            got.append(message.value)
            message.ack()
            if message.value == 5:
                break
    assert got == [0, 1, 2, 4, 5]
    assert q.stats()["put"] == 5


def test_thousands_of_puts_that_wait_hold_nothing_else_up_are_taken_in_order_and_can_be_withdrawn(bus):
    async def main() -> None:
        full, q = bus.queue("full", depth=1), bus.queue("q", depth=1, prefetch=2)
        blocked = [full.put_async(i) for i in range(1500)]
        putting = asyncio.gather(*(q.put_async(i) for i in range(3000)))
        for i in range(3000):
            with await q.get_async() as message:
                assert message.value == i
        await putting
        with pytest.raises(isthmus.TimeoutError, match="'full' had no room"):
            await full.put_async("late", timeout=0.001)
        for each in blocked[1:]:
            each.cancel()
        await blocked[0]
        assert (await full.get_async()).value == 0
        full.close()
        with bus.topic("t").subscribe(depth=1) as news:
            publishing = asyncio.gather(*(bus.topic("t").publish_async(i) for i in range(3000)))
            for i in range(3000):
                assert await news.get_async() == i
            await publishing

    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))


def test_a_put_waits_behind_those_of_an_event_loop_on_its_own_thread(bus, other):
    async def main() -> None:
        q = bus.queue("q", depth=300)
        q.stats()  # the keeper is there from now on
        putting = [q.put_async(i) for i in range(200)]
        q.put(200)
        await asyncio.gather(*putting)

    asyncio.run(main())
    with other.queue("q") as q:
        for i in range(201):
            with q.get() as message:
                assert message.value == i


def test_what_a_dead_producer_waited_with_is_withdrawn(bus, child, until):
    q = bus.queue("q", depth=1)
    q.stats()
    producer = child()
    producer.do("put", "taken in")
    producer.tell("put", "withdrawn")
    until(lambda: q.stats()["blocked"] == 1)
    waiting = bus.submit("isthmus.queue.put", "after", "q", None, None)
    producer.kill()
    until(lambda: q.stats()["blocked"] == 1)
    for value in ("taken in", "after"):
        with q.get() as message:
            assert message.value == value
    waiting.result(PATIENCE)
    assert q.stats()["put"] == 2


def test_what_was_said_before_leaving_is_heard(bus, host, until):
    q = bus.queue("q")
    for i in range(20):
        q.put(i)
        with isthmus.connect(host.name) as other:
            other.queue("q").get().ack()
        until(lambda i=i: q.stats()["acknowledged"] == i + 1)


def test_a_consumer_holds_no_more_than_it_may(bus, other):
    for i in range(5):
        bus.queue("q").put(i)
    q = other.queue("q", prefetch=2)
    held = [q.get(), q.get()]
    with pytest.raises(isthmus.TimeoutError):
        q.get(timeout=0.05)
    assert q.stats()["unacknowledged"] == 2
    held[1].ack()
    assert q.get(timeout=PATIENCE).value == 2
    assert q.stats()["unacknowledged"] == 2


def test_who_does_not_wait_for_messages_gets_none(bus, other):
    idle, busy = other.queue("q", prefetch=8), bus.queue("q")
    busy.put(1)
    with idle.get() as message:
        assert message.value == 1
    with pytest.raises(isthmus.TimeoutError):
        idle.get(timeout=0.01)
    for i in range(20):
        busy.put(i)
    got = []
    for message in busy:
        got.append((message.value, message.deliveries))
        message.ack()
        if len(got) == 20:
            break
    assert got == [(i, 1) for i in range(20)]


def test_leaving_a_loop_gives_back_what_it_has_not_taken(bus, other):
    q = other.queue("q", prefetch=8)
    for i in range(8):
        q.put(i)
    for message in q:
        message.ack()
        break
    with bus.queue("q") as rest:
        for i in range(1, 8):
            with rest.get(timeout=PATIENCE) as message:
                assert (message.value, message.deliveries) == (i, 1)


def test_acknowledging_twice_or_elsewhere_or_too_late_has_one_clear_answer(bus, other):
    q = bus.queue("q")
    q.put(1)
    q.put(2)
    message = q.get()
    with pytest.raises(isthmus.Error, match="came from another object"):
        other.queue("q").ack(message)
    message.ack()
    for again in (message.ack, message.reject, lambda: q.ack(message)):
        with pytest.raises(isthmus.Error, match="was acknowledged already"):
            again()
    message = q.get()
    q.close()
    with pytest.raises(isthmus.Error, match="closed, or lost, before the message was acknowledged"):
        message.ack()
    with pytest.raises(isthmus.Error, match="was closed here"):
        q.get()
    assert [message.value for message in q] == []
    with other.queue("q") as rest, rest.get(timeout=PATIENCE) as message:
        assert (message.value, message.deliveries) == (2, 2)


def test_what_was_on_its_way_to_a_consumer_that_closes_is_for_others(bus, other, until):
    source = other.queue("q")
    rest = bus.queue("q")
    source.stats()
    for _ in range(30):
        q = bus.queue("q", prefetch=32)
        for i in range(64):
            other._native().post("isthmus.queue.put", (i, "q", None, None))
        for message in q:
            message.ack()
            q.close()
    acknowledged = 30
    while source.stats()["waiting"]:
        with rest.get(timeout=PATIENCE):
            acknowledged += 1
    until(lambda: source.stats()["unacknowledged"] == 0)
    assert acknowledged == source.stats()["put"] == source.stats()["acknowledged"]
    assert source.stats()["late"] == 0


def test_a_late_acknowledgement_is_counted_and_changes_nothing(bus, other):
    q = bus.queue("q")
    q.put(1)
    q.get()
    for number in (99, 1 << 40):
        other._native().post("isthmus.queue.settle", ("q", number, 1, 0, [1, 2, 3]))
    assert other.queue("q").stats()["late"] == 6
    assert q.stats()["unacknowledged"] == 1


def test_only_values_can_be_put(bus):
    q = bus.queue("q")
    with pytest.raises(isthmus.EncodeError) as failed:
        q.put({"rows": [1, print]})
    assert failed.value.path == "args[0].rows[1]"
    with pytest.raises(isthmus.EncodeError):
        bus.topic("t").publish(object())
    assert q.stats()["put"] == 0


@pytest.mark.parametrize("wrong", [5, "", None])
def test_a_name_is_a_text(bus, wrong):
    with pytest.raises(TypeError, match="a queue has a text for a name"):
        bus.queue(wrong)
    with pytest.raises(TypeError, match="a topic has a text for a name"):
        bus.topic(wrong)


def test_a_time_that_is_none_is_refused(bus):
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="a number of seconds from 0 on"):
            bus.queue("q").put(1, timeout=timeout)


def test_what_is_nested_too_deeply_to_be_handed_on_is_refused_at_once(bus, other):
    def nested(depth):
        return [nested(depth - 1)] if depth > 1 else []

    q = bus.queue("q")
    with pytest.raises(isthmus.PythonError, match="nested more than 127 deep"):
        q.put(nested(128))
    q.put(nested(127))
    assert other.queue("q").get(timeout=PATIENCE).value == nested(127)


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


def test_a_bus_whose_queues_nobody_uses_has_no_keeper(bus):
    assert len(bus.peers()) == 2
    bus.queue("q").stats()
    bus.topic("t").publish(1)
    assert len(bus.peers()) == 3


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


def test_whoever_waits_is_told_when_the_keeper_goes(name, until):
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as left:
        with isthmus.Host(name):
            bus = left.enter_context(isthmus.connect(name))
            q = bus.queue("q", depth=1)
            q.put(1)
            message = q.get()
            jobs = [
                threads.submit(work) for work in (q.get, lambda: q.put(2), bus.topic("t").subscribe().get)
            ]
            until(lambda: q.stats()["blocked"] == 1 and q._consumer.waiters)
        for job in jobs:
            with pytest.raises(isthmus.PeerLost):
                job.result(PATIENCE)
        with pytest.raises(isthmus.Error):
            message.ack()


@pytest.mark.parametrize("was_used", [False, True])
def test_what_ended_with_its_bus_says_so_by_its_name_every_time(serve, name, was_used):
    served = serve("import isthmus").ready()
    with isthmus.connect(name) as bus:
        q, t = bus.queue("q"), bus.topic("t")
        blocking = {
            "put to the queue 'q'": lambda: q.put(1),
            "get from the queue 'q'": lambda: q.get(timeout=PATIENCE),
            "stats of the queue 'q'": q.stats,
            "publish to the topic 't'": lambda: t.publish(1),
            "subscribe to the topic 't'": t.subscribe,
        }
        if was_used:
            q.put(1)
            q.get().ack()
            blocking["get from the topic 't'"] = t.subscribe().get
        awaited = {
            "put to the queue 'q'": lambda: q.put_async(1),
            "get from the queue 'q'": lambda: q.get_async(timeout=PATIENCE),
            "publish to the topic 't'": lambda: t.publish_async(1),
        }
        assert served.end() == 0

        def lost(doing):
            told = f"^{doing} failed: the bus '{name}' was closed or is gone"
            return pytest.raises(isthmus.PeerLost, match=told)

        async def await_all():
            for doing, operation in 2 * list(awaited.items()):
                with lost(doing):
                    await operation()
            with lost("get from the queue 'q'"):
                async for _ in q:
                    pass

        for doing, operation in 2 * list(blocking.items()):
            with lost(doing):
                operation()
        with lost("get from the queue 'q'"):
            next(iter(q))
        asyncio.run(await_all())


def test_ctrl_c_ends_a_wait_and_the_message_is_for_others(bus, other, until):
    q = bus.queue("q")
    q.stats()

    def interrupt() -> None:
        until(lambda: q._consumer.waiters)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        q.get()
    thread.join()
    other.queue("q").put(1)
    assert other.queue("q").get(timeout=PATIENCE).deliveries == 1


def test_a_consumer_that_nobody_has_any_more_gives_back_what_it_holds(bus, other):
    bus.queue("q").put(1)
    assert bus.queue("q").get().value == 1  # dropped at once
    gc.collect()
    assert other.queue("q").get(timeout=PATIENCE).deliveries == 2


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


def test_queues_in_an_event_loop(bus, other):
    async def work() -> None:
        q, source = bus.queue("q", prefetch=2), other.queue("q", depth=3)
        puts = [source.put_async(i) for i in range(6)]
        got = []
        async for message in q:
            got.append(message.value)
            message.ack()
            if len(got) == 6:
                break
        assert got == list(range(6))
        await asyncio.gather(*puts)
        with pytest.raises(isthmus.TimeoutError):
            await q.get_async(timeout=0.01)
        waiting = asyncio.ensure_future(q.get_async())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await source.put_async("rest")
        assert (await source.get_async(timeout=PATIENCE)).value == "rest"
        full = other.queue("full", depth=1)
        await full.put_async(1)
        putting = asyncio.ensure_future(full.put_async(2))
        await asyncio.sleep(0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        with await full.get_async() as message:
            assert message.value == 1
        assert full.stats()["put"] == 1

    asyncio.run(work())


def test_twenty_thousand_messages_are_each_dealt_with_while_consumers_are_killed(bus, name, child, until):
    count = 20_000
    seen: set[int] = set()
    killed = threading.Event()

    def consume(q: isthmus.Queue) -> None:
        for message in q:
            seen.add(message.value)
            message.ack()

    def kill_often() -> None:
        while not killed.is_set():
            victim = child(prefetch=16)
            victim.do("get", 0.5)
            victim.kill()

    def produce() -> None:
        pending = []
        for i in range(1, count):
            pending.append(bus.submit("isthmus.queue.put", i, "q", None, None))
            if len(pending) == 200 or i == count - 1:
                for future in pending:
                    future.result(PATIENCE)
                pending.clear()

    bus.queue("q", depth=500, deliveries=1000).put(0)
    first = child()
    assert first.do("get") == [0, 1]
    first.kill()
    with isthmus.connect(name) as one, isthmus.connect(name) as two:
        queues = [each.queue("q", prefetch=16) for each in (one, two)]
        threads = [threading.Thread(target=consume, args=[each]) for each in queues]
        killer = threading.Thread(target=kill_often)
        for thread in (*threads, killer):
            thread.start()
        produce()
        killed.set()
        killer.join()
        q = bus.queue("q")
        until(lambda: q.stats()["acknowledged"] == count)
        stats = q.stats()
        for each in queues:
            each.close()
        for thread in threads:
            thread.join(PATIENCE)
    assert seen == set(range(count))
    assert stats["put"] == stats["acknowledged"] == count
    assert stats["redelivered"] > 0
    assert stats["dead"] == 0


# --- topics ------------------------------------------------------------------------------------------------


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


def test_a_dead_subscriber_holds_nobody_up(bus, child):
    subscriber = child()
    subscriber.do("subscribe")
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


# --- memory ------------------------------------------------------------------------------------------------


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


def test_an_array_waits_where_it_lies_and_is_given_back_in_the_end(bus, other, until):
    np = pytest.importorskip("numpy")

    def figures() -> tuple[int, int]:
        gc.collect()
        copied = sum(one.stats()["self"]["bytes_copied"] for one in (bus, other))
        return copied, bus.stats()["memory"]["leased"]

    q, again = bus.queue("q"), other.queue("q")
    q.stats()
    before = figures()
    frame = np.asarray(isthmus.empty((512, 512), "float32"))
    frame[:] = 7
    again.put({"frame": frame, "part": frame[1:3, ::2], "name": "x"})
    del frame
    message = q.get()
    assert message.value["frame"].sum() == 7 * 512 * 512
    assert message.value["part"].shape == (2, 256)
    assert not message.value["frame"].flags.writeable
    kept = message.value["part"]
    message.reject()
    with q.get() as message:
        assert message.deliveries == 2
        assert message.value["frame"][3, 3] == 7
    assert kept.sum() == 7 * 512
    assert figures()[0] == before[0]
    del message, kept
    until(lambda: figures() == before)
