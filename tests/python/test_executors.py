"""Exports that run on threads, or wherever an executor takes them."""

import concurrent.futures
import contextvars
import os
import threading
import time

import numpy as np
import pytest

import isthmus

tag = contextvars.ContextVar("tag", default="untagged")
gate = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="own")
log: list[object] = []


class Elsewhere(concurrent.futures.Executor):
    """Runs nothing by itself: what is submitted waits until `run`."""

    def __init__(self):
        self.submitted = []

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        self.submitted.append((future, function, args, kwargs))
        return future

    def run(self):
        future, function, args, kwargs = self.submitted.pop(0)
        if future.set_running_or_notify_cancel():
            future.set_result(function(*args, **kwargs))


elsewhere = Elsewhere()


@isthmus.export(executor="threads")
def ex_where(x=0, *, y=0):
    return [threading.current_thread().name, x + y]


@isthmus.export(executor=pool)
def ex_own():
    return threading.current_thread().name


@isthmus.export(executor="threads")
def ex_wait():
    log.append("began")
    gate.wait(20)
    call = isthmus.current()
    log.append(call.cancelled)
    return call.name


@isthmus.export(executor="threads")
def ex_fail(word):
    raise LookupError(word)


@isthmus.export(executor="threads")
def ex_exit():
    raise SystemExit(3)


@isthmus.export(executor="threads")
def ex_tag(value):
    before = tag.get()
    tag.set(value)
    return [before, tag.get()]


@isthmus.export(executor="threads")
def ex_rows(until, fails=False):
    log.append(threading.current_thread().name)
    try:
        yield from range(until)
        if fails:
            raise LookupError("no more")
    finally:
        log.append("closed")


@isthmus.export(executor=elsewhere)
def ex_elsewhere(a, b=0):
    return a + b


@isthmus.export
def ex_plain(x):
    return x


@pytest.fixture
def bus(name):
    log.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus
        gate.set()


def test_a_call_runs_on_a_thread_of_the_shared_pool(bus):
    where, result = bus.call("ex_where", 1, y=2)
    assert where.startswith("isthmus.threads")
    assert result == 3


def test_or_on_an_executor_of_ones_own(bus):
    assert bus.call("ex_own").startswith("own")


def test_whatever_is_an_executor_will_do(bus, until):
    call = bus.submit("ex_elsewhere", 1, b=2)
    until(lambda: elsewhere.submitted)
    assert not call.done()
    elsewhere.run()
    assert call.result(20) == 3


def test_calls_run_beside_each_other_and_hold_nobody_up(bus, until):
    waiting = [bus.submit("ex_wait") for _ in range(3)]
    until(lambda: log.count("began") == 3)
    assert bus.call("ex_plain", 1) == 1
    assert bus.call("ex_where")[1] == 0
    gate.set()
    assert len({call.result(20) for call in waiting}) == 1


def test_the_function_comes_back_unchanged():
    assert ex_where.__name__ == "ex_where"
    assert ex_where(2)[1] == 2


def test_what_it_raises_reaches_the_caller(bus):
    with pytest.raises(isthmus.PythonError, match="LookupError: lost") as caught:
        bus.call("ex_fail", "lost")
    assert "in ex_fail" in caught.value.traceback
    assert "tasks.py" not in caught.value.traceback
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("ex_exit")
    assert caught.value.type == "SystemExit"
    assert bus.call("ex_where")[1] == 0


def test_what_it_computes_with_numpy_is_not_copied(serve, name):
    serve(
        """
        import isthmus
        import numpy as np

        @isthmus.export(executor="threads")
        def ones(count):
            return np.ones(count)
        """
    ).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("ones", 100_000).sum() == 100_000
        assert bus.stats()["host"]["bytes_copied"] == 0


def test_each_call_has_a_context_of_its_own(bus):
    assert [bus.call("ex_tag", number) for number in range(3)] == [
        ["untagged", number] for number in range(3)
    ]


def test_a_call_that_is_cancelled_sees_it_and_one_that_has_not_begun_never_does(bus, until):
    begun = bus.submit("ex_wait")
    until(lambda: log == ["began"])
    begun.cancel()
    queued = bus.submit("ex_elsewhere", 1)
    until(lambda: elsewhere.submitted)
    queued.cancel()
    bus.call("ex_where")
    until(lambda: elsewhere.submitted[0][0].cancelled())
    elsewhere.run()
    gate.set()
    until(lambda: log == ["began", True])


def test_a_generator_on_threads_is_a_stream(bus, until):
    assert list(bus.stream("ex_rows", 1000)) == list(range(1000))
    assert log[0].startswith("isthmus.threads")
    assert log[1] == "closed"
    log.clear()
    rows = []
    with pytest.raises(isthmus.PythonError, match="no more"):
        rows.extend(bus.stream("ex_rows", 5, fails=True))
    assert rows == [0, 1, 2, 3, 4]
    log.clear()
    for row in bus.stream("ex_rows", 1_000_000):
        if row == 10:
            break
    until(lambda: log[1:] == ["closed"])


def test_an_executor_that_is_gone_fails_its_calls_alone(bus):
    gone = concurrent.futures.ThreadPoolExecutor(1)
    isthmus.export(name="ex_gone", executor=gone)(lambda: 1)
    assert bus.call("ex_gone") == 1
    gone.shutdown()
    with pytest.raises(isthmus.PythonError, match="cannot schedule new futures after shutdown"):
        bus.call("ex_gone")
    assert bus.call("ex_where")[1] == 0


def test_a_pool_of_processes_runs_what_can_be_pickled(bus):
    with concurrent.futures.ProcessPoolExecutor(1) as processes:
        isthmus.export(name="ex_process", executor=processes)(os.getpid)
        isthmus.export(name="ex_norm", executor=processes)(np.linalg.norm)
        assert bus.call("ex_process") != os.getpid()
        assert bus.call("ex_norm", np.full(10_000, 3.0)) == 300.0
        isthmus.export(name="ex_unpickled", executor=processes)(lambda: 1)
        with pytest.raises(isthmus.PythonError, match="pickle"):
            bus.call("ex_unpickled")


def test_what_can_not_run_on_an_executor_is_refused_when_it_is_exported():
    async def coroutine():
        pass

    def generator():
        yield

    for function, executor, why in (
        (print, "fast", "'fast' is no executor"),
        (print, 3, "3 is no executor"),
        (coroutine, "threads", "asynchronous"),
        (generator, elsewhere, "generator"),
    ):
        with pytest.raises(TypeError, match=why):
            isthmus.export(name="never", executor=executor)(function)


def test_a_host_that_stops_does_not_wait_for_its_threads(name, until):
    log.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        call = bus.submit("ex_wait")
        until(lambda: log == ["began"])
        started = time.monotonic()
    assert time.monotonic() - started < 10
    with pytest.raises((isthmus.PeerLost, isthmus.Cancelled, concurrent.futures.CancelledError)):
        call.result(20)
    gate.set()
