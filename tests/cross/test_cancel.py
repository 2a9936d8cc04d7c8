"""What Python's callers cancel, and in which order both sides come to know of it."""

import asyncio
import concurrent.futures
import time

import pytest

import isthmus


def test_ten_thousand_queued_futures_that_are_cancelled_never_run(bus):
    before = bus.call("touched")
    held = bus.submit("hold", 2)
    futures = [bus.submit("touch") for _ in range(10_000)]
    assert all(future.cancel() for future in futures)
    assert all(future.cancelled() for future in futures)
    held.result()
    assert bus.call("touched") == before
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result()


def test_ten_thousand_queued_tasks_that_are_cancelled_never_run(bus):
    before = bus.call("touched")

    async def touch():
        await bus.call_async("touch")

    async def play():
        held = asyncio.ensure_future(bus.call_async("hold", 2))
        await asyncio.sleep(0)
        tasks = [asyncio.ensure_future(touch()) for _ in range(10_000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await held
        return ended

    assert all(isinstance(each, asyncio.CancelledError) for each in asyncio.run(play()))
    assert bus.call("touched") == before


def test_queued_calls_whose_time_runs_out_never_run(bus):
    before = bus.call("touched")
    held = bus.submit("hold", 2)
    futures = [bus.submit("touch", timeout=0.05) for _ in range(1000)]
    for future in futures:
        with pytest.raises(isthmus.TimeoutError):
            future.result()
    held.result()
    assert bus.call("touched") == before


def test_future_cancel_cancels_the_coroutine_over_there(bus, other):
    future = bus.submit("wait", 20)
    other.events("wait began")
    assert future.cancel()
    assert future.cancelled()
    assert other.events("wait cleaned up") == ["wait cancelled", "wait cleaned up"]


def test_cancelling_a_task_cancels_the_coroutine_over_there(bus, other):
    log = []

    async def waiting():
        try:
            await bus.call_async("wait", 20)
        except asyncio.CancelledError:
            log.append("cancelled here")
            raise

    async def play():
        task = asyncio.ensure_future(waiting())
        while "wait began" not in await bus.call_async("take_events"):
            pass
        log.append("cancel")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())
    assert log == ["cancel", "cancelled here"]
    assert other.events("wait cleaned up") == ["wait cancelled", "wait cleaned up"]


def by_call(bus, *args, **options):
    bus.call(*args, **options)


def by_future(bus, *args, **options):
    bus.submit(*args, **options).result()


def by_coroutine(bus, *args, **options):
    async def play():
        await bus.call_async(*args, **options)

    asyncio.run(play())


@pytest.mark.parametrize("by", [by_call, by_future, by_coroutine])
def test_time_that_runs_out_cancels_the_coroutine_over_there(bus, other, by):
    started = time.monotonic()
    with pytest.raises(isthmus.TimeoutError):
        by(bus, "wait", 20, timeout=0.1)
    assert time.monotonic() - started < 10
    assert other.events("wait cleaned up") == ["wait began", "wait cancelled", "wait cleaned up"]


def test_wait_for_cancels_what_it_waited_for(bus, other):
    async def play():
        await asyncio.wait_for(bus.call_async("wait", 20), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(play())
    assert other.events("wait cleaned up")[-2:] == ["wait cancelled", "wait cleaned up"]


@pytest.mark.parametrize("name", ["watch", "watch_thread"])
def test_a_running_function_sees_that_it_was_cancelled(bus, other, name):
    if other.language == "javascript":
        name = "wait"
    future = bus.submit(name, 20)
    time.sleep(0.2)
    assert future.cancel()
    saw = other.events("wait cleaned up" if name == "wait" else "watch saw it")
    assert saw in (["watch began", "watch saw it"], ["wait began", "wait cancelled", "wait cleaned up"])


@pytest.mark.parametrize("name", ["remaining", "remaining_async"])
@pytest.mark.parametrize("apply", ["apply", "apply_thread", "apply_async"])
def test_the_deadline_travels_with_nested_calls(bus, name, apply):
    assert bus.call(name) is None
    assert 1 < bus.call(name, timeout=20) <= 20.001
    assert 1 < bus.call(apply, lambda: bus.call(name), timeout=10) <= 10.001
    assert 1 < bus.call(apply, lambda: bus.call(name, timeout=5), timeout=10) <= 5.001

    async def nested():
        return await bus.call_async(name)

    assert 1 < bus.call(apply, nested, timeout=10) <= 10.001


def test_a_future_that_is_done_is_not_cancelled(bus):
    future = bus.submit("echo", 1)
    assert future.result() == 1
    assert not future.cancel()


def test_ten_thousand_coroutines_that_sleep_are_in_flight_at_once(bus):
    async def play():
        return await asyncio.gather(*(bus.call_async("nap", 0.1) for _ in range(10_000)))

    started = time.monotonic()
    assert asyncio.run(play()) == [0.1] * 10_000
    # One after the other they would take 1,000 s
    assert time.monotonic() - started < 60
