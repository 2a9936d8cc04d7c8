"""Streams in both directions, with Python as the caller: for threads and for coroutines."""

import asyncio
import itertools
import time

import pytest
from conftest import private_bytes

import isthmus

MILLION = 1_000_000
AHEAD = 4096
both = pytest.mark.parametrize("name", ["count", "ticks"])


async def taken(stream, most=None):
    items = []
    async for item in stream:
        items.append(item)
        if len(items) == most:
            break
    return items


@both
def test_items_come_in_order_to_a_thread(bus, name):
    assert list(bus.stream(name, 100)) == list(range(100))
    assert bus.call("take_events") == ["closed"]
    assert list(bus.stream(name, 0)) == []


@both
def test_items_come_in_order_to_a_coroutine(bus, name):
    assert asyncio.run(taken(bus.stream(name, 100))) == list(range(100))


@both
def test_what_was_called_for_is_an_iterator_and_an_async_iterator(bus, name):
    assert list(bus.call(name, 20)) == list(range(20))
    assert asyncio.run(taken(bus.call(name, 20))) == list(range(20))


@both
def test_leaving_early_closes_the_other_side(bus, other, name):
    with bus.stream(name, MILLION) as stream:
        assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    assert other.events("closed") == ["closed"]
    assert bus.call("how_many") <= AHEAD


@both
def test_leaving_an_async_for_closes_the_other_side(bus, other, name):
    async def play():
        async with bus.stream(name, MILLION) as stream:
            assert await taken(stream, 3) == [0, 1, 2]

    asyncio.run(play())
    assert other.events("closed") == ["closed"]


def test_a_stream_that_nobody_holds_any_more_is_closed(bus, other):
    assert next(bus.stream("count", MILLION)) == 0
    assert other.events("closed") == ["closed"]


@pytest.mark.parametrize("at", [0, 1, 255, 256, 257, 5000])
def test_an_error_in_mid_stream_comes_after_the_items_before_it(bus, at):
    found = []
    with pytest.raises(isthmus.Error, match=f"no {at}"):
        found.extend(bus.stream("count", MILLION, at))
    items = []

    async def play():
        async for item in bus.stream("count", MILLION, at):
            items.append(item)  # noqa: PERF401

    with pytest.raises(isthmus.Error, match=f"no {at}"):
        asyncio.run(play())
    assert items == list(range(at))


def test_a_million_small_items_come_to_a_thread(bus):
    assert sum(bus.stream("count", MILLION)) == MILLION * (MILLION - 1) // 2


def test_a_million_small_items_come_to_a_coroutine(bus):
    async def play():
        total = 0
        async for item in bus.stream("count", MILLION):
            total += item
        return total

    assert asyncio.run(play()) == MILLION * (MILLION - 1) // 2


def test_a_slow_consumer_of_a_million_items_holds_the_producer_up_and_nobody_grows(bus, other):
    figures = []
    furthest = 0
    for taken, item in enumerate(bus.stream("count", MILLION, -1, 100), 1):
        assert len(item) == 100
        if taken % 1000 == 0:
            time.sleep(0.001)
            furthest = max(furthest, bus.call("how_many") - taken)
        if taken % 100_000 == 0:
            figures.append((private_bytes("self"), other.used_bytes()))
    assert taken == MILLION
    assert furthest <= AHEAD
    grown = [max(side[5:]) - max(side[:5]) for side in zip(*figures, strict=True)]
    assert max(grown) < 8 << 20  # half of the items would be 50 MiB


async def sequence(n, seen=None):
    try:
        for i in range(n):
            yield i
    finally:
        if seen is not None:
            seen.append("closed")


def generator(n, seen=None):
    try:
        yield from range(n)
    finally:
        if seen is not None:
            seen.append("closed")


@pytest.mark.parametrize("make", [generator, sequence, lambda n: iter(range(n))])
@pytest.mark.parametrize("name", ["total", "total_async"])
def test_generators_iterators_and_async_generators_go_there(bus, name, make):
    assert bus.call(name, make(3000)) == 4_498_500
    assert bus.call(name, make(0)) == 0


@pytest.mark.parametrize("make", [generator, sequence])
@pytest.mark.parametrize("name", ["first", "first_async"])
def test_a_generator_that_is_left_early_there_is_closed_here(bus, until, name, make):
    seen = []
    assert bus.call(name, make(MILLION, seen), 3) == [0, 1, 2]
    until(lambda: seen)
    assert seen == ["closed"]


def test_an_error_of_a_generator_here_comes_there_after_its_items(bus):
    def failing():
        yield from (1, 2)
        raise ValueError("no more")

    seen = bus.call("until_error", failing())
    assert seen[:2] == [1, 2]
    assert "no more" in seen[2]


def test_a_million_small_items_go_there(bus):
    assert bus.call("total", generator(MILLION)) == MILLION * (MILLION - 1) // 2


def test_a_slow_consumer_there_holds_the_generator_here_up(bus):
    made = 0

    def endless():
        nonlocal made
        while True:
            made += 1
            yield "x" * 1000

    bus.call("slowly", endless(), 0.2)
    assert made <= AHEAD


def test_a_generator_that_comes_home_is_the_very_generator(bus):
    mine = generator(3)
    assert bus.call("echo", mine) is mine
    assert list(mine) == [0, 1, 2]
    theirs = bus.call("count", 3)
    assert bus.call("total", theirs) == 3


def test_streams_of_many_threads_and_coroutines_keep_their_items_apart(bus):
    async def play():
        return await asyncio.gather(*(taken(bus.stream("count", 10_000), i + 1) for i in range(100)))

    assert asyncio.run(play()) == [list(range(i + 1)) for i in range(100)]
