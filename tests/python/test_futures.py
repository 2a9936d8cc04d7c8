"""submit: calls whose results come in a concurrent.futures.Future."""

import asyncio
import concurrent.futures
import threading
import time

import pytest

import isthmus

begun: list[object] = []
gate = threading.Event()


@isthmus.export
def fut_hold():
    begun.append("hold")
    gate.wait(20)


@isthmus.export
def fut_note(word):
    begun.append(word)
    return word


@isthmus.export
def fut_fail():
    raise ValueError("no")


@isthmus.export
def fut_watch():
    """Runs until its caller has given it up."""
    begun.append("watching")
    deadline = time.monotonic() + 20
    while not isthmus.current().cancelled:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    begun.append("saw it")


@isthmus.export
async def fut_task():
    begun.append("began")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        begun.append("cancelled")
        raise
    finally:
        begun.append("finally")


@pytest.fixture
def bus(name):
    begun.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus
        gate.set()


def test_a_future_gets_the_result(bus):
    call = bus.submit("fut_note", "x", timeout=20)
    assert isinstance(call, concurrent.futures.Future)
    assert call.result(20) == "x"
    assert call.done()
    assert not call.cancel()


def test_or_the_error(bus):
    assert bus.submit("fut_fail").exception(20).type == "ValueError"
    with pytest.raises(isthmus.NotExported, match="did you mean fut_note"):
        bus.submit("fut_not").result(20)
    with pytest.raises(isthmus.EncodeError, match=r"args\[1\]"):
        bus.submit("fut_note", 1, [b := [], b.append(b)][0])


def test_many_are_waited_for_in_the_usual_ways(bus):
    calls = [bus.submit("fut_note", number) for number in range(200)]
    done, left = concurrent.futures.wait(calls, 20)
    assert len(done) == 200
    assert not left
    assert sorted(call.result() for call in concurrent.futures.as_completed(calls, 20)) == list(range(200))


def test_callbacks_may_make_calls_themselves(bus):
    told = threading.Event()
    results = []

    def again(call):
        results.append(bus.submit("fut_note", call.result() + "b"))
        told.set()

    bus.submit("fut_note", "a").add_done_callback(again)
    assert told.wait(20)
    assert results[0].result(20) == "ab"


def test_what_has_not_begun_never_runs(bus):
    held = bus.submit("fut_hold")
    queued = [bus.submit("fut_note", number) for number in range(10_000)]
    assert all(call.cancel() for call in queued)
    assert all(call.cancelled() for call in queued)
    gate.set()
    held.result(20)
    assert bus.call("fut_note", "last") == "last"
    assert begun == ["hold", "last"]
    with pytest.raises(concurrent.futures.CancelledError):
        queued[0].result()
    assert not concurrent.futures.wait(queued, 20).not_done


def test_what_runs_as_a_coroutine_is_cancelled(bus, until):
    call = bus.submit("fut_task")
    until(lambda: begun)
    assert call.cancel()
    until(lambda: len(begun) == 3)
    assert begun == ["began", "cancelled", "finally"]


def test_what_runs_as_a_plain_function_sees_it(bus, until):
    call = bus.submit("fut_watch")
    until(lambda: begun)
    assert call.cancel()
    until(lambda: len(begun) == 2)
    assert begun == ["watching", "saw it"]
    assert bus.call("fut_note", "still there") == "still there"


def test_a_timeout_cancels_too(bus, until):
    with pytest.raises(TimeoutError):
        bus.submit("fut_task", timeout=0.05).result(20)
    until(lambda: len(begun) == 3)
    with pytest.raises(TimeoutError):
        bus.call("fut_task", timeout=0.05)
    until(lambda: len(begun) == 6)
    assert begun == ["began", "cancelled", "finally"] * 2


def test_cancelling_a_task_cancels_what_it_awaits(bus, until):
    async def main():
        task = asyncio.ensure_future(bus.call_async("fut_task"))
        await asyncio.to_thread(until, lambda: begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: len(begun) == 3)
    assert begun == ["began", "cancelled", "finally"]


def test_a_coroutine_that_the_host_itself_cancels_is_an_error_to_its_caller(bus):
    @isthmus.export(name=f"{bus.name}.cancels")
    async def cancels():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(isthmus.PythonError) as caught:
        bus.call(f"{bus.name}.cancels")
    assert caught.value.type == "CancelledError"


def test_closing_settles_what_is_in_flight(bus):
    call = bus.submit("fut_hold")
    bus.close()
    assert isinstance(call.exception(20), isthmus.PeerLost)
