"""Producers, consumers and keepers that die, leave or are interrupted at every step."""

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import isthmus
from isthmus import intake, queues

PATIENCE = 20


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


def test_a_consumer_gives_back_what_it_holds_when_its_block_ends(bus, other):
    async def hold():
        async with bus.queue("q") as q:
            return await q.get_async(timeout=PATIENCE)

    other.queue("q").put(1)
    with bus.queue("q") as q:
        assert q.get().deliveries == 1
    assert asyncio.run(hold()).deliveries == 2
    assert other.queue("q").get(timeout=PATIENCE).deliveries == 3


def test_a_consumer_that_nobody_has_any_more_gives_back_what_it_holds(bus, other):
    bus.queue("q").put(1)
    assert bus.queue("q").get().value == 1  # dropped at once
    gc.collect()
    assert other.queue("q").get(timeout=PATIENCE).deliveries == 2


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


def test_who_tries_again_at_once_while_nobody_keeps_anything_holds_no_loop_up(bus, monkeypatch):
    def find_none(end: float | None) -> None:
        time.sleep(0.05)
        raise isthmus.PeerLost("nobody")

    async def get_again_and_again() -> None:
        while not over:
            with pytest.raises(isthmus.PeerLost):
                await bus.queue("q").get_async()

    async def main() -> None:
        getting = asyncio.gather(*(get_again_and_again() for _ in range(3)))
        await asyncio.sleep(0.3)
        over.append(True)
        await getting

    over = []
    monkeypatch.setattr(bus._access, "_find", find_none)
    asyncio.run(main())


def test_who_gives_up_waiting_for_the_keeper_and_comes_back_begins_no_other_search(bus, monkeypatch):
    searches, over = [], threading.Event()

    def search(end: float | None) -> None:
        searches.append(None)
        over.wait(PATIENCE)
        raise isthmus.PeerLost("nobody")

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(bus.queue("q").get_async(), 0.01)
            with pytest.raises(isthmus.TimeoutError, match=r"the queue 'q' had no message within 0\.01 s"):
                await bus.queue("q").get_async(timeout=0.01)
        last = asyncio.ensure_future(bus.queue("q").get_async())
        await asyncio.sleep(0)
        over.set()
        with pytest.raises(isthmus.PeerLost):
            await last

    monkeypatch.setattr(bus._access, "_find", search)
    asyncio.run(main())
    assert len(searches) == 1


@pytest.fixture
def stopped(serve, name):
    """A connection that has used no queue yet, to a bus whose holder is stopped."""
    served = serve("import isthmus").ready()
    with isthmus.connect(name) as bus:
        served.process.send_signal(signal.SIGSTOP)
        try:
            yield bus, lambda: served.process.send_signal(signal.SIGCONT)
        finally:
            served.process.send_signal(signal.SIGCONT)


USES = {
    "put": lambda bus: bus.queue("q").put("late", timeout=0.05),
    "publish": lambda bus: bus.topic("t").publish("late", timeout=0.05),
    "get": lambda bus: bus.queue("q").get(timeout=0.05),
    "look": lambda bus: bus.queue("q").get(timeout=0),
    "put_async": lambda bus: asyncio.run(_awaited(lambda: bus.queue("q").put_async("late", timeout=0.05))),
    "publish_async": lambda bus: asyncio.run(
        _awaited(lambda: bus.topic("t").publish_async("late", timeout=0.05))
    ),
    "get_async": lambda bus: asyncio.run(_awaited(lambda: bus.queue("q").get_async(timeout=0.05))),
}


async def _awaited(begin):
    return await begin()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_use_keeps_its_time_while_the_holder_of_the_bus_is_stopped(stopped, use):
    bus, go_on = stopped
    with pytest.raises(isthmus.TimeoutError, match=r"the (queue 'q'|topic 't') had no (room|message) within"):
        use(bus)
    go_on()
    bus.queue("q").put("in time", timeout=PATIENCE)
    assert bus.queue("q").get(timeout=PATIENCE).value == "in time"


def test_a_search_that_can_not_be_begun_leaves_nothing_to_be_sent(bus, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as without:
            without.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="thread"):
                await bus.queue("q").put_async("refused")
        await bus.queue("q").put_async("sent")

    asyncio.run(main())
    assert bus.queue("q").get(timeout=PATIENCE).value == "sent"
    assert bus.queue("q").stats()["put"] == 1


def test_a_first_put_does_not_wait_for_threads_that_wait_for_it(bus):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        is_put = threading.Event()
        waits = loop.run_in_executor(None, is_put.wait, PATIENCE)
        await bus.queue("q").put_async(1)
        is_put.set()
        assert await waits

    asyncio.run(main())


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
