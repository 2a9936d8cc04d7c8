"""Streams: generators and async generators, read as they run."""

import asyncio
import gc
import threading
import time

import numpy as np
import pytest

import isthmus

log: list[object] = []


@isthmus.export
def st_count(until):
    log.append("began")
    try:
        for number in range(until):
            log.append(number)
            yield number
    finally:
        log.append("closed")


@isthmus.export
async def st_acount(until):
    log.append("began")
    try:
        for number in range(until):
            log.append(number)
            await asyncio.sleep(0)
            yield number
    finally:
        log.append("closed")


@isthmus.export
def st_fail(after):
    yield from range(after)
    raise LookupError("no more")


@isthmus.export
async def st_afail(after):
    for number in range(after):
        yield number
    raise LookupError("no more")


@isthmus.export
async def st_ticks(pause):
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(pause)


@isthmus.export
def st_list(items):
    return items


@isthmus.export
async def st_alist(items):
    return iter(items)


@isthmus.export
def st_number():
    return 1


@isthmus.export
def st_unsendable():
    yield 1
    loop = []
    loop.append(loop)
    yield loop


@isthmus.export
def st_blocks(until):
    for number in range(until):
        yield np.full(1 << 19, number, "float64")


@isthmus.export
async def st_ablocks(until):
    for block in st_blocks(until):
        yield block


@isthmus.export
async def st_who():
    yield isthmus.current().name
    await asyncio.sleep(0)
    yield isthmus.current().name


@isthmus.export
async def st_aticks():
    for i in range(3):
        await asyncio.sleep(0.1)
        yield i


@isthmus.export
async def st_never():
    await asyncio.Event().wait()
    yield


@pytest.fixture
def bus(name):
    log.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus


both = pytest.mark.parametrize("count", ["st_count", "st_acount"])
both_fail = pytest.mark.parametrize("fail", ["st_fail", "st_afail"])


async def collect(stream):
    return [item async for item in stream]


@both
@pytest.mark.parametrize("size", [0, 1, 5, 5000])
def test_the_items_come_in_order_and_end(bus, count, size):
    assert list(bus.stream(count, size)) == list(range(size))
    assert asyncio.run(collect(bus.stream(count, size))) == list(range(size))
    assert log.count("closed") == 2


@pytest.mark.parametrize("lists", ["st_list", "st_alist"])
def test_whatever_can_be_iterated_can_be_streamed(bus, lists):
    assert list(bus.stream(lists, [1, "two", [3]])) == [1, "two", [3]]
    assert asyncio.run(collect(bus.stream(lists, [1, "two", [3]]))) == [1, "two", [3]]


def test_what_can_not_be_iterated_is_an_error(bus):
    with pytest.raises(isthmus.PythonError, match=r"TypeError: .*int"):
        list(bus.stream("st_number"))
    with pytest.raises(isthmus.NotExported):
        list(bus.stream("st_nothing"))


def test_a_generator_that_is_called_comes_as_a_stream(bus):
    numbers = bus.call("st_count", 3)
    assert isinstance(numbers, isthmus.Stream)
    assert next(numbers) == 0
    assert list(numbers) == [1, 2]
    assert list(numbers) == []
    with pytest.raises(StopIteration):
        next(numbers)
    assert asyncio.run(collect(bus.call("st_acount", 3))) == [0, 1, 2]


@both_fail
@pytest.mark.parametrize("after", [0, 3, 3000])
def test_an_error_comes_after_the_items_before_it(bus, fail, after):
    seen = []
    with pytest.raises(isthmus.PythonError, match="LookupError: no more"):
        seen.extend(bus.stream(fail, after))
    assert [*bus.stream("st_count", after)] == list(range(after))

    async def main():
        async for item in bus.stream(fail, after):
            seen.append(item)  # noqa: PERF401

    seen.clear()
    with pytest.raises(isthmus.PythonError, match="LookupError: no more"):
        asyncio.run(main())
    assert seen == list(range(after))


@both
def test_the_other_side_is_never_far_ahead(bus, count, until):
    numbers = iter(bus.stream(count, 1_000_000))
    assert next(numbers) == 0
    time.sleep(0.1)
    produced = len(log)
    assert produced < 4096
    for _ in range(10_000):
        next(numbers)
    until(lambda: len(log) > 10_000)
    assert len(log) < 10_000 + 4096


@both
def test_leaving_early_closes_the_generator(bus, count, until):
    with bus.stream(count, 1_000_000) as numbers:
        assert next(numbers) == 0
    until(lambda: "closed" in log)
    assert list(numbers) == []


@both
def test_so_does_dropping_the_stream(bus, count, until):
    for number in bus.stream(count, 1_000_000):
        if number == 2000:
            break
    gc.collect()
    until(lambda: "closed" in log)


@both
def test_so_does_the_end_of_the_task_that_reads_it(bus, count, until):
    async def read():
        async for _ in bus.stream(count, 10**9):
            await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(read())
        await asyncio.to_thread(until, lambda: log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    until(lambda: "closed" in log)


def test_a_stream_that_is_never_read_does_not_begin(bus):
    bus.stream("st_count", 3)
    assert bus.call("st_number") == 1
    assert log == []


def test_an_item_is_not_held_back_for_the_next(bus):
    ticks = bus.stream("st_ticks", 60)
    started = time.monotonic()
    assert next(ticks) == 0
    assert time.monotonic() - started < 10
    ticks.close()


def test_an_item_that_can_not_travel_ends_the_stream(bus):
    numbers = bus.stream("st_unsendable")
    assert next(numbers) == 1
    with pytest.raises(isthmus.Error, match=r"cycle|itself"):
        next(numbers)


@pytest.mark.parametrize("blocks", ["st_blocks", "st_ablocks"])
def test_an_item_that_no_memory_is_left_for_ends_the_stream_after_those_before_it(name, blocks):
    with isthmus.Host(name, memory=64 << 20), isthmus.connect(name) as bus:
        kept = []
        with pytest.raises(isthmus.BusFull, match="release arrays"):
            kept.extend(bus.stream(blocks, 40))
        assert 4 < len(kept) < 16
        assert [block.sum() for block in kept] == [number << 19 for number in range(len(kept))]
        kept.clear()
        assert len(list(bus.stream(blocks, 4))) == 4


def test_many_streams_run_beside_each_other(bus):
    async def main():
        return await asyncio.gather(*(collect(bus.stream("st_acount", 100)) for _ in range(100)))

    assert asyncio.run(main()) == [list(range(100))] * 100


def test_a_stream_is_read_in_one_way(bus):
    async def main():
        numbers = bus.stream("st_count", 3)
        assert next(numbers) == 0
        with pytest.raises(RuntimeError, match="is read by `for`"):
            await numbers.__anext__()
        numbers = bus.stream("st_count", 3)
        assert await numbers.__anext__() == 0
        with pytest.raises(RuntimeError, match="is read by `async for`"):
            next(numbers)

    asyncio.run(main())


def read_on(stream, into):
    """What a thread gets that goes on after it was told that another one is waiting."""
    while True:
        try:
            for item in stream:
                into.append(item)
        except RuntimeError as error:
            assert "another thread" in str(error)  # noqa: PT017
            continue
        return


def test_each_item_comes_once_when_threads_read_a_stream_at_once(bus):
    for _ in range(5):
        stream = bus.stream("st_count", 5_000)
        parts = [[], [], []]
        readers = [threading.Thread(target=read_on, args=(stream, part), daemon=True) for part in parts]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(20)
        assert not any(reader.is_alive() for reader in readers)
        assert sorted(item for part in parts for item in part) == list(range(5_000))


def test_who_asks_while_another_thread_waits_is_told_so(bus, until):
    stream = bus.stream("st_ticks", 0.01)
    got, told = [], set()

    def take():
        try:
            got.append(next(stream))
        except RuntimeError as error:
            told.add(str(error))
        except StopIteration:
            return False
        return True

    def read():  # both threads go on, whoever of them is told
        while take():
            pass

    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    until(lambda: told)
    stream.close()
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()
    assert all("another thread is waiting for this stream's next item" in each for each in told)
    assert sorted(got) == list(range(len(got)))


def test_closing_a_stream_ends_the_wait_of_who_reads_it(bus):
    stream = bus.stream("st_ticks", 3600)
    first = threading.Event()

    def read():
        for _ in stream:
            first.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert first.wait(20)
    stream.close()
    reader.join(20)
    assert not reader.is_alive()


def test_who_asks_while_another_task_waits_is_told_so(bus):
    async def play():
        stream = bus.stream("st_aticks")
        first, second = (asyncio.create_task(stream.__anext__()) for _ in range(2))
        with pytest.raises(RuntimeError, match="another task is waiting"):
            await second
        assert await first == 0
        assert await stream.__anext__() == 1

    asyncio.run(play())


def test_closing_a_stream_in_another_thread_ends_the_wait_of_the_task_that_reads_it(bus):
    async def play():
        stream = bus.stream("st_never")
        reader = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        threading.Thread(target=stream.close).start()
        assert await asyncio.wait_for(reader, 20) == []

    asyncio.run(play())


def test_a_stream_that_could_not_begin_says_so_each_time(bus):
    async def play():
        endless = []
        endless.append(endless)
        stream = bus.stream("st_list", endless)
        for _ in range(2):
            with pytest.raises(isthmus.EncodeError, match="contains itself"):
                await stream.__anext__()

    asyncio.run(play())


def test_a_stream_ends_with_its_time(bus, until):
    with pytest.raises(TimeoutError):
        list(bus.stream("st_ticks", 60, timeout=0.05))
    with pytest.raises(TimeoutError):
        asyncio.run(collect(bus.stream("st_ticks", 60, timeout=0.05)))


def test_a_stream_knows_its_call(bus):
    assert list(bus.stream("st_who")) == ["st_who", "st_who"]


def test_a_stream_of_the_dead_ends_with_an_error(serve, name):
    served = serve(
        """
        import time
        import isthmus

        @isthmus.export
        async def st_endless():
            import asyncio
            while True:
                yield 1
                await asyncio.sleep(0.001)
        """
    ).ready()
    with isthmus.connect(name) as bus:
        endless = bus.stream("st_endless")
        assert next(endless) == 1
        killer = threading.Timer(0.1, served.process.kill)
        killer.start()
        with pytest.raises(isthmus.PeerLost):
            list(endless)
        killer.join()
    # What a killed host leaves on disk the next one of its name takes over.
    with isthmus.Host(name):
        pass
