"""What producers put and consumers get: order, acknowledgements, back-pressure, waiting."""

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import isthmus

PATIENCE = 20


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


@pytest.mark.parametrize(
    "meanwhile", ["in one go", "with turns of the loop between", "found by a thread between"]
)
def test_what_is_put_while_the_keeper_is_looked_for_arrives_in_the_order_in_which_it_was_begun(
    bus, other, meanwhile
):
    async def main():
        q = bus.queue("q", depth=100_000)
        puts = []
        while len(puts) < 300 or not bus._access.is_ready:
            puts.append(q.put_async(len(puts)))
            if meanwhile == "with turns of the loop between":
                await asyncio.sleep(0)
            elif meanwhile == "found by a thread between" and len(puts) == 100:
                bus._access.ensure()
            elif len(puts) >= 300:
                await asyncio.sleep(0.001)
        await asyncio.gather(*puts)
        return len(puts)

    count = asyncio.run(main())
    with other.queue("q", depth=100_000) as q:
        for i in range(count):
            with q.get(timeout=PATIENCE) as message:
                assert message.value == i


def test_the_time_of_a_put_counts_from_its_beginning(bus, monkeypatch):
    async def main():
        with pytest.raises(isthmus.TimeoutError, match="the queue 'q' had no room"):
            await bus.queue("q").put_async(1, timeout=0.05)

    find = bus._access._find
    monkeypatch.setattr(bus._access, "_find", lambda end: (time.sleep(0.5), find(end)))
    asyncio.run(main())
    assert bus.queue("q").stats()["put"] == 0


@pytest.mark.parametrize("executor", [None, "threads"])
def test_a_put_has_its_own_time_whichever_call_makes_way_for_it(name, executor, until):
    @isthmus.export(name=f"puts on {executor}", executor=executor)
    def put() -> None:
        host.queue("q").put("of the call")

    async def main() -> None:
        q = host.queue("q")
        call = asyncio.ensure_future(caller.call_async(f"puts on {executor}", timeout=0.5))
        await asyncio.to_thread(until, lambda: q.stats()["blocked"] == 1)
        puts = [q.put_async(i) for i in range(70)]
        await asyncio.sleep(0)
        with other.queue("q") as consumer:
            (await consumer.get_async()).ack()
        await call
        done, _ = await asyncio.wait(puts, timeout=1)
        assert not done
        for each in puts:
            each.cancel()

    with isthmus.Host(name) as host, isthmus.connect(name) as caller, isthmus.connect(name) as other:
        host.queue("q", depth=1).put("first")
        asyncio.run(main())


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


def test_a_late_acknowledgement_is_counted_and_changes_nothing(bus, other):
    q = bus.queue("q")
    q.put(1)
    q.get()
    for number in (99, 1 << 40):
        other._native().post("isthmus.queue.settle", ("q", number, 1, 0, [1, 2, 3]))
    assert other.queue("q").stats()["late"] == 6
    assert q.stats()["unacknowledged"] == 1


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
