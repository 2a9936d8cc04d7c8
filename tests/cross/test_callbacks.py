"""Python functions that travel: called back from everywhere, and the same when they come home."""

import asyncio
import threading

import pytest

import isthmus

applies = pytest.mark.parametrize("apply", ["apply", "apply_thread", "apply_async"])


@applies
def test_a_function_is_called_back_and_its_value_goes_there(bus, apply):
    assert bus.call(apply, lambda a, b: [b, a], 1, {"two": 2}) == [{"two": 2}, 1]
    assert bus.call(apply, lambda: None) is None


@applies
def test_the_future_of_a_call_serves_its_callbacks(bus, apply):
    futures = [bus.submit(apply, lambda x: x + 1, i) for i in range(100)]
    assert [future.result() for future in futures] == list(range(1, 101))


@applies
def test_a_coroutine_function_is_awaited(bus, apply):
    async def slow(x):
        await asyncio.sleep(0.02)
        return x + 1

    async def play():
        assert await bus.call_async(apply, slow, 1) == 2
        assert await asyncio.gather(*(bus.call_async(apply, slow, i) for i in range(20))) == list(
            range(1, 21)
        )

    asyncio.run(play())
    assert bus.call(apply, slow, 1) == 2


@applies
def test_the_exception_of_a_callback_comes_home_as_it_was(bus, apply):
    error = KeyError("mine")

    def thrower():
        raise error

    with pytest.raises(KeyError) as found:
        bus.call(apply, thrower)
    assert found.value is error
    with pytest.raises(KeyError) as found:
        bus.submit(apply, thrower).result()
    assert found.value is error

    async def play():
        with pytest.raises(KeyError) as found:
            await bus.call_async(apply, thrower)
        assert found.value is error

    asyncio.run(play())


@applies
def test_a_function_of_the_other_side_goes_back_there(bus, apply):
    assert bus.call(apply, bus.call("adder", 2), 40) == 42


def test_a_function_is_the_same_when_it_comes_home(bus):
    def f():
        return 1

    assert bus.call("echo", f) is f
    back = bus.call("echo", {"deep": [f, [f]]})
    assert back["deep"][0] is f
    assert back["deep"][1][0] is f
    bus.call("keep", f)
    assert bus.call("take") is f
    assert bus.call("apply", lambda g: g, f) is f


def test_a_function_is_one_function_over_there_too(bus):
    def f():
        return 1

    assert bus.call("same", f, f) is True
    assert bus.call("same", f, lambda: 1) is False
    theirs = bus.call("adder", 1)
    assert bus.call("echo", theirs) is theirs
    assert bus.call("same", theirs, theirs) is True


def test_a_function_of_the_other_side_blocks_in_a_thread_and_is_awaited_in_a_loop(bus):
    add = bus.call("adder", 1)
    assert callable(add)
    assert add(41) == 42

    async def play():
        assert await add(41) == 42
        assert await asyncio.gather(*(add(i) for i in range(1000))) == list(range(1, 1001))

    asyncio.run(play())
    found = []
    thread = threading.Thread(target=lambda: found.append(add(1)))
    thread.start()
    thread.join()
    assert found == [2]


def test_mutual_recursion_a_hundred_deep(bus):
    def descend(n):
        return 0 if n == 0 else 1 + bus.call("descend", descend, n - 1)

    assert descend(100) == 100


def test_mutual_recursion_of_coroutines_a_hundred_deep(bus):
    async def descend(n):
        return 0 if n == 0 else 1 + await bus.call_async("descend_async", descend, n - 1)

    assert asyncio.run(descend(100)) == 100


def test_calls_nested_deeper_than_the_limit_are_an_error_that_says_so(bus):
    def descend(n):
        return 0 if n == 0 else 1 + bus.call("descend", descend, n - 1)

    with pytest.raises(Exception, match="nested deeper than 128"):
        descend(2000)
    assert bus.call("echo", 1) == 1


def test_threads_call_and_are_called_back_at_once(bus):
    found = {}

    def play(i):
        found[i] = [bus.call("apply", lambda x: bus.call("echo", x + 1), i) for _ in range(20)]

    threads = [threading.Thread(target=play, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [i + 1] * 20 for i in range(8)}


def test_ten_thousand_callbacks_in_flight_at_once(bus):
    assert bus.call("apply_at_once", lambda i: i, 10_000) == list(range(10_000))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exceptions_that_end_programs_are_errors_of_the_callback_alone(bus, kind):
    def halt():
        raise kind("stop")

    told = bus.call("told", halt)
    assert told["type"] == kind.__name__
    assert bus.call("echo", 1) == 1


def test_an_exception_that_cannot_be_printed_is_told_anyway(bus):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    def fail():
        raise Unprintable("x")

    assert bus.call("told", fail)["type"].endswith("Unprintable")
    with pytest.raises(Unprintable):
        bus.call("apply", fail)


def test_a_callback_that_is_none_is_an_error(bus):
    with pytest.raises(isthmus.Error):
        bus.call("apply", "no function")
