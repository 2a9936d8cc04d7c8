"""A long life leaves no trace: memory, references, leases and descriptors stay as they were."""

import asyncio
import datetime
import gc
import os
import sys

import numpy as np
import pytest

import isthmus

APP = """
    import datetime, gc, os, resource, sys, tracemalloc
    import numpy as np
    import isthmus

    constant = ("a constant of this app", 12345678901234567890)

    @isthmus.export
    def echo(value=None, **named):
        return named or value

    @isthmus.export
    def fail(value):
        raise ValueError(value, object())

    @isthmus.export
    def refuse():
        return [constant, datetime.datetime(2024, 1, 1)]

    @isthmus.export
    def give():
        return constant

    @isthmus.export
    def thing():
        return object()

    @isthmus.export
    def apply(function, value):
        return function(value)

    @isthmus.export
    async def apply_async(function, value):
        return await function(value)

    @isthmus.export
    def rows(count):
        yield from range(count)

    @isthmus.export
    async def rows_async(count):
        for number in range(count):
            yield number

    @isthmus.export
    def fresh(size):
        return np.ones(size)

    gc.freeze()

    @isthmus.export
    def measure(begin=False):
        if begin:
            tracemalloc.start()
        gc.collect()
        resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        return {
            "traced": tracemalloc.get_traced_memory()[0],
            "resident": resident,
            "objects": len(gc.get_objects()),
            "references": [sys.getrefcount(each) for each in (constant, *constant, None, echo, ValueError)],
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
"""

WORK = {
    "numbers": lambda bus: bus.call("echo", 3.25),
    "a text of 1 kB": lambda bus: bus.call("echo", "x" * 1000),
    "a structure": lambda bus: bus.call("echo", {"rows": [1, "two", None, {3, 4}, b"5", 2**70, {6: 7}]}),
    "named arguments": lambda bus: bus.call("echo", alpha=1, beta=[2]),
    "a small array": lambda bus: bus.call("echo", small),
    "a leased array": lambda bus: bus.call("echo", leased),
    "a constant": lambda bus: bus.call("give"),
}

CROSSING = {
    "remote objects": lambda bus: bus.call("thing"),
    "remote objects that go there and back": lambda bus: bus.call("echo", [bus.call("thing")] * 3),
    "operations": lambda bus: str(bus.call("thing")),
    "functions that are handed over": lambda bus: bus.call("apply", lambda value: value, 1),
    "functions that coroutines call": lambda bus: bus.call("apply_async", lambda value: value, 1),
    "coroutines that are handed over": lambda bus: bus.call("apply", asyncio_echo, 1),
    "streams": lambda bus: list(bus.stream("rows", 3)),
    "async streams": lambda bus: list(bus.stream("rows_async", 3)),
    "streams that are left": lambda bus: next(bus.stream("rows", 3000)),
    "async streams that are left": lambda bus: next(bus.stream("rows_async", 300)),
    "generators that nobody reads": lambda bus: bus.call("rows", 3),
    "futures": lambda bus: bus.submit("echo", 1).result(),
    "futures that are cancelled": lambda bus: bus.submit("apply_async", asyncio_echo, 1).cancel(),
    "exceptions that come back": lambda bus: fails(lambda: bus.call("apply", divide, 0)),
}


async def asyncio_echo(value):
    await asyncio.sleep(0)
    return value


def divide(by):
    return 1 / by


def fails(function):
    with pytest.raises(ZeroDivisionError):
        function()


small = np.arange(10.0)
leased = np.arange(1000.0)


@pytest.fixture(scope="module")
def bus(tmp_path_factory, request):
    served_type = request.getfixturevalue("served_type")
    name = f"leaks-{os.getpid()}"
    served = served_type(tmp_path_factory.mktemp("leaks"), name, APP).ready()
    with isthmus.connect(name) as bus:
        yield bus
    assert served.end() == 0
    served.close()


def same(before, after, calls):
    assert after["traced"] - before["traced"] < 20_000 + 16 * calls
    assert after["resident"] - before["resident"] < 4 << 20
    assert after["objects"] - before["objects"] < 50
    for one, two in zip(before["references"], after["references"], strict=True):
        assert abs(two - one) < calls // 50 + 200
    assert after["descriptors"] == before["descriptors"]


@pytest.mark.parametrize("kind", WORK)
def test_calls_leave_nothing_in_the_host_or_the_caller(bus, kind):
    work, calls = WORK[kind], 15_000
    for _ in range(500):
        work(bus)
    bus.call("measure", True)
    before, own = bus.call("measure"), sys.getallocatedblocks()
    for _ in range(calls):
        work(bus)
    same(before, bus.call("measure"), calls)
    gc.collect()
    assert sys.getallocatedblocks() - own < 300
    stats = bus.stats()
    assert stats["self"]["leases_taken"] - stats["self"]["leases_released"] <= 4
    assert stats["host"]["leases_taken"] == stats["host"]["leases_released"]


@pytest.mark.parametrize("kind", CROSSING)
def test_what_stays_where_it_is_is_let_go_of_on_both_sides(bus, until, kind):
    work, calls = CROSSING[kind], 2000
    bus.call("measure", True)

    def settled(last):
        """What is on its way arrives: nothing has changed for a while, on either side."""
        gc.collect()
        last[:] = [*last[-3:], (bus.call("measure")["objects"], len(gc.get_objects()))]
        return len(last) == 4 and len(set(last)) == 1

    def play():
        for _ in range(calls):
            work(bus)
        until(lambda last=[]: settled(last))
        return {**bus.call("measure"), "own": len(gc.get_objects())}

    # How much is in flight at once differs, and tables grow to hold it; what leaks is more each time.
    first, second, third, fourth = (play() for _ in range(4))
    fewest = {key: min(third[key], fourth[key], key=total) for key in third}
    most = {key: max(first[key], second[key], key=total) for key in first}
    same(most, fewest, calls)
    assert fewest["own"] - most["own"] < 50


def total(figure):
    return sum(figure) if isinstance(figure, list) else figure


def test_failures_leave_nothing_either(bus):
    def work():
        with pytest.raises(isthmus.PythonError):
            bus.call("fail", "x" * 100)
        with pytest.raises(isthmus.PythonError):
            bus.call("refuse")
        with pytest.raises(isthmus.NotExported):
            bus.call("missing")
        with pytest.raises(isthmus.EncodeError):
            bus.call("echo", [leased, "x", datetime.datetime(2024, 1, 1)])
        with pytest.raises(isthmus.EncodeError):
            bus.call("echo", [np.ones(100_000), datetime.datetime(2024, 1, 1)])
        with pytest.raises(isthmus.TimeoutError):
            bus.call("echo", np.ones(10_000), timeout=0)

    for _ in range(50):
        work()
    bus.call("measure", True)
    before = bus.call("measure")
    for _ in range(500):
        work()
    same(before, bus.call("measure"), 1500)
    stats = bus.stats()
    assert stats["self"]["leases_taken"] - stats["self"]["leases_released"] <= 4
    assert stats["host"]["leases_taken"] == stats["host"]["leases_released"]


def test_large_results_give_their_memory_back(bus):
    for _ in range(20):
        bus.call("fresh", 1_000_000)
    before = bus.call("measure")
    for _ in range(500):
        assert bus.call("fresh", 1_000_000)[-1] == 1
    same(before, bus.call("measure"), 500)
