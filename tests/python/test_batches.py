"""Exports that are called once for many calls."""

import asyncio
import threading

import numpy as np
import pytest

import isthmus

seen: list[object] = []
gate = threading.Event()


@isthmus.export(batch=isthmus.Batch(max=4, wait=2))
def ba_double(numbers):
    seen.append((list(numbers), threading.current_thread().name, isthmus.current()))
    return [number * 2 for number in numbers]


@isthmus.export(batch=isthmus.Batch(max=4, wait=0.02))
def ba_soon(numbers):
    seen.append((list(numbers), threading.current_thread().name, isthmus.current()))
    return numbers


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.5))
def ba_add(a, b, *, scale):
    seen.append(len(a))
    return [(x + y) * z for x, y, z in zip(a, b, scale, strict=True)]


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.02))
async def ba_later(numbers):
    await asyncio.sleep(0)
    seen.append(len(numbers))
    return np.array(numbers) * 2


@isthmus.export(batch=isthmus.Batch(max=2, wait=60))
def ba_pair(numbers):
    seen.append(list(numbers))
    return numbers


def ba_stacked(x):
    seen.append(x.shape)
    return x.sum(axis=-1)


# What fills a batch begins it, however slow the machine is.
isthmus.export(name="ba_stacked_8", batch=isthmus.Batch(max=8, wait=60, stack=True))(ba_stacked)
isthmus.export(name="ba_stacked", batch=isthmus.Batch(max=64, wait=0.1, stack=True))(ba_stacked)


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.02, stack=True))
def ba_squared(x):
    return x**2


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.02))
def ba_divide(numbers):
    return [10 / number if number else ZeroDivisionError("by nothing") for number in numbers]


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.02))
def ba_fail(numbers):
    raise LookupError("all")


@isthmus.export(batch=isthmus.Batch(max=64, wait=0.02))
def ba_wrong(what):
    return {"none": None, "few": [1] * (len(what) - 1), "text": "x" * len(what), "stop": [StopIteration()]}[
        what[0]
    ]


@isthmus.export(batch=isthmus.Batch(max=2, wait=0.001))
def ba_slow(numbers):
    seen.append(list(numbers))
    gate.wait(20)
    return numbers


@isthmus.export(batch=isthmus.Batch(max=1, wait=0))
async def ba_give_up(numbers):
    seen.append(numbers)
    await asyncio.to_thread(gate.wait, 20)
    if numbers == [0]:
        raise asyncio.CancelledError
    return numbers


@pytest.fixture
def bus(name):
    seen.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus
        gate.set()


def results(calls):
    return [call.result(20) for call in calls]


def test_many_calls_are_one_and_each_gets_its_own_result(bus):
    calls = [bus.submit("ba_add", number, 1, scale=2) for number in range(100)]
    assert results(calls) == [(number + 1) * 2 for number in range(100)]
    assert sum(seen) == 100
    assert max(seen) == 64


def test_a_batch_is_performed_when_it_is_full_or_its_first_call_has_waited(bus):
    assert results([bus.submit("ba_double", number) for number in range(6)]) == [0, 2, 4, 6, 8, 10]
    assert [numbers for numbers, *_ in seen] == [[0, 1, 2, 3], [4, 5]]


def test_it_runs_on_a_thread_of_its_own_and_belongs_to_no_single_call(bus):
    bus.call("ba_soon", 1)
    (_, thread, call) = seen[0]
    assert thread.startswith("isthmus.batch")
    assert call is None


def test_calls_of_several_callers_share_a_batch(bus):
    with isthmus.connect(bus.name) as other:
        calls = [peer.submit("ba_pair", 1) for peer in (bus, other)]
        assert results(calls) == [1, 1]
    assert seen == [[1, 1]]


def test_while_a_batch_is_performed_the_next_gathers(bus, until):
    first = bus.submit("ba_slow", 0)
    until(lambda: seen == [[0]])
    calls = [bus.submit("ba_slow", number) for number in range(1, 5)]
    bus.call("ba_soon", 1)
    gate.set()
    assert results([first, *calls]) == [0, 1, 2, 3, 4]
    assert [entry for entry in seen if isinstance(entry, list)] == [[0], [1, 2], [3, 4]]


def test_an_asynchronous_one_runs_on_the_loop(bus):
    assert results([bus.submit("ba_later", number) for number in range(5)]) == [0, 2, 4, 6, 8]
    assert sum(seen) == 5


def test_arrays_can_come_stacked(bus):
    arrays = [np.full(1000, number, "float32") for number in range(8)]
    assert results([bus.submit("ba_stacked_8", array) for array in arrays]) == [1000 * n for n in range(8)]
    assert seen == [(8, 1000)]
    squares = results([bus.submit("ba_squared", array) for array in arrays])
    assert [square.sum() for square in squares] == [1000 * n * n for n in range(8)]


def test_arrays_of_another_shape_are_a_batch_of_their_own(bus):
    arrays = [np.ones(2 + number % 2) for number in range(6)]
    assert results([bus.submit("ba_stacked", array) for array in arrays]) == [2, 3, 2, 3, 2, 3]
    assert [sum(count for count, length in seen if length == each) for each in (2, 3)] == [3, 3]


def test_one_that_fails_fails_alone_where_the_function_says_so(bus):
    calls = [bus.submit("ba_divide", number) for number in (1, 0, 2)]
    assert [calls[0].result(20), calls[2].result(20)] == [10, 5]
    with pytest.raises(isthmus.PythonError, match="ZeroDivisionError: by nothing"):
        calls[1].result(20)


def test_what_the_function_raises_fails_all(bus):
    for call in [bus.submit("ba_fail", number) for number in range(3)]:
        with pytest.raises(isthmus.PythonError, match="LookupError: all"):
            call.result(20)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("none", "a list with a result for each call, and not a NoneType"),
        ("few", "a batch of 1 calls returned 0 results"),
        ("text", "and not a str"),
        ("stop", "StopIteration"),
    ],
)
def test_results_that_do_not_fit_the_calls_are_an_error(bus, what, why):
    with pytest.raises(isthmus.PythonError, match=why):
        bus.call("ba_wrong", what)
    assert bus.call("ba_soon", 1) == 1


def test_calls_with_other_arguments_are_a_batch_of_their_own(bus):
    right = bus.submit("ba_add", 1, 2, scale=1)
    wrong = bus.submit("ba_add", 1)
    assert right.result(20) == 3
    with pytest.raises(isthmus.PythonError, match="missing"):
        wrong.result(20)


def test_a_call_that_is_cancelled_while_it_gathers_is_in_no_batch(bus, until):
    first = bus.submit("ba_slow", 0)
    until(lambda: seen == [[0]])
    gone, kept = bus.submit("ba_slow", 1), bus.submit("ba_slow", 2)
    gone.cancel()
    bus.call("ba_soon", 1)
    gate.set()
    assert results([first, kept]) == [0, 2]
    assert [2] in seen


def test_calls_that_gathered_behind_a_batch_that_was_cancelled_are_performed(bus, until):
    first = bus.submit("ba_give_up", 0)
    until(lambda: seen == [[0]])
    behind = bus.submit("ba_give_up", 1)
    bus.call("ba_soon", 1)
    gate.set()
    with pytest.raises(isthmus.PythonError, match="CancelledError"):
        first.result(20)
    assert behind.result(20) == 1


def test_what_is_no_batch_is_refused_when_it_is_exported():
    def rows():
        yield

    async def later():
        pass

    for wrong in ({"max": 0}, {"max": 1.5}, {"wait": -1}, {"wait": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            isthmus.Batch(**wrong)
    with pytest.raises(TypeError, match=r"no isthmus\.Batch"):
        isthmus.export(batch=3)(print)
    with pytest.raises(TypeError, match="generator"):
        isthmus.export(name="never", batch=isthmus.Batch())(rows)
    with pytest.raises(TypeError, match="asynchronous"):
        isthmus.export(name="never", batch=isthmus.Batch(), executor="threads")(later)


def test_a_host_stops_while_a_batch_is_performed(name, until):
    seen.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        bus.submit("ba_slow", 0)
        until(lambda: seen == [[0]])
    gate.set()
