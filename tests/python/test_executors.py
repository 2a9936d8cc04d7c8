"""Exports that run on threads, or wherever an executor takes them."""

import asyncio
import concurrent.futures
import contextvars
import os
import sys
import threading
import time
import types

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


class Scheduler:
    """Makes a pool when it is asked for one, once it is `open`, unless there is `trouble`."""

    def __init__(self):
        self.asked = []
        self.open = threading.Event()
        self.trouble = None

    def __call__(self):
        self.asked.append(threading.current_thread())
        self.open.wait(20)
        if self.trouble is not None:
            raise self.trouble
        return pool


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


@isthmus.export
async def ex_async(x):
    return x


@pytest.fixture
def bus(name):
    log.clear()
    gate.clear()
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus
        gate.set()


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.open.set()


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


def test_callers_take_turns_on_the_shared_pool(name, until):
    began, gate = [], threading.Event()

    @isthmus.export(name="ex_turn", executor="threads")
    def turn(who):
        began.append(who)
        gate.wait(20)

    @isthmus.export(name="ex_after")
    async def after():
        pass

    with isthmus.Host(name), isthmus.connect(name) as flooder, isthmus.connect(name) as quiet:
        calls = [flooder.submit("ex_turn", "flooder") for _ in range(500)]
        until(lambda: len(began) > 1)
        flooder.call("ex_after")
        calls.append(quiet.submit("ex_turn", "quiet"))
        quiet.call("ex_after")
        gate.set()
        concurrent.futures.wait(calls)
    assert began.index("quiet") < 100


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


def test_an_executor_of_this_process_gets_what_can_not_be_pickled(bus, until):
    array = isthmus.empty(100_000)
    array[:] = 1
    heard = []
    for arguments in ((heard.append, array), (array, 1)):
        isthmus.export(name="ex_whatever", executor=elsewhere)(
            lambda x, y: x(len(y)) if callable(x) else x.sum()
        )
        call = bus.submit("ex_whatever", *arguments)
        until(lambda: elsewhere.submitted)
        elsewhere.run()
        result = call.result(20)
    assert heard == [100_000]
    assert result == 100_000


def test_a_module_that_processes_can_not_import_is_a_clear_error(bus, monkeypatch):
    nowhere = types.ModuleType("nowhere")
    exec("def function(): pass", nowhere.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere", nowhere)
    isthmus.export(name="ex_nowhere", executor="processes")(nowhere.function)
    with pytest.raises(isthmus.PythonError, match="'function' or its arguments can't be loaded") as caught:
        bus.call("ex_nowhere")
    assert caught.value.type == "ImportError"
    assert "No module named 'nowhere'" in str(caught.value)
    isthmus.export(name="ex_somewhere", executor="processes")(os.getpid)
    assert bus.call("ex_somewhere") != os.getpid()


def test_an_executor_that_drops_a_call_is_an_error_of_that_call(bus, until):
    call = bus.submit("ex_elsewhere", 1)
    until(lambda: elsewhere.submitted)
    elsewhere.submitted.pop()[0].cancel()
    with pytest.raises(isthmus.PythonError, match="'ex_elsewhere' was lost: its executor has cancelled it"):
        call.result(20)


def test_what_can_not_run_on_an_executor_is_refused_when_it_is_exported():
    async def coroutine():
        pass

    def generator():
        yield

    for function, executor, why in (
        (print, "fast", "'fast' is no executor"),
        (print, 3, "3 is no executor"),
        (print, lambda address: pool, "or a function without arguments that returns one"),
        (print, coroutine, "coroutine.* is no executor"),
        (coroutine, "threads", "asynchronous"),
        (coroutine, "processes", "asynchronous"),
        (generator, elsewhere, "generator"),
        (generator, "processes", "generator"),
        (generator, lambda: pool, "generator"),
    ):
        with pytest.raises(TypeError, match=why):
            isthmus.export(name="never", executor=executor)(function)
        with pytest.raises(TypeError, match=why):
            isthmus.export(name="never", executor=executor, batch=isthmus.Batch())(function)
    with pytest.raises(ValueError, match=r"begin with 'isthmus\.'"):
        isthmus.export(name="isthmus.never")(print)


def test_a_function_is_asked_for_its_executor_once_when_a_call_needs_it(bus, scheduler):
    @isthmus.export(name="ex_made", executor=scheduler)
    def made(x):
        return [threading.current_thread().name, isthmus.current().name, x]

    @isthmus.export(name="ex_made_too", executor=scheduler, batch=isthmus.Batch(max=2, wait=5))
    def made_too(numbers):
        return [[threading.current_thread().name, number] for number in numbers]

    assert scheduler.asked == []
    scheduler.open.set()
    where, name, result = bus.call("ex_made", 1)
    assert where.startswith("own")
    assert [name, result] == ["ex_made", 1]
    batch = [bus.submit("ex_made_too", number) for number in range(2)]
    assert [call.result(20)[1] for call in batch] == [0, 1]
    assert batch[0].result()[0].startswith("own")
    (thread,) = scheduler.asked
    assert thread.name == "isthmus.executor"
    thread.join(0.1)
    assert thread.is_alive(), "what the function has started may end with its thread"


def test_while_it_is_being_asked_all_else_goes_on(bus, until, scheduler):
    isthmus.export(name="ex_patient", executor=scheduler)(lambda: "done")
    waiting = bus.submit("ex_patient")
    until(lambda: scheduler.asked)
    assert bus.call("ex_async", 1) == 1
    assert bus.call("ex_plain", 2) == 2
    assert bus.call("ex_where", 3)[1] == 3
    assert not waiting.done()
    scheduler.open.set()
    assert waiting.result(20) == "done"


def test_what_it_raises_is_the_error_of_all_that_wait_and_the_next_call_asks_anew(bus, scheduler):
    for name in ("ex_remote", "ex_remote_too"):
        isthmus.export(name=name, executor=scheduler)(lambda: "done")
    isthmus.export(name="ex_remote_batch", executor=scheduler, batch=isthmus.Batch(max=1))(len)
    scheduler.trouble = OSError("nobody is at tcp://10.0.0.1:8786")
    names = ["ex_remote", "ex_remote", "ex_remote_too", "ex_remote_batch"]
    waiting = [bus.submit(name, *([1] if "batch" in name else [])) for name in names]
    bus.call("ex_async", 1)
    scheduler.open.set()
    for name, call in zip(names, waiting, strict=True):
        why = f"the executor of '{name}' can't be had: nobody is at tcp://10.0.0.1:8786"
        with pytest.raises(isthmus.PythonError, match=why) as caught:
            call.result(20)
        assert caught.value.type == "OSError"
        assert "raise self.trouble" in caught.value.traceback
    assert len(scheduler.asked) == 1
    for trouble in (concurrent.futures.CancelledError("no"), StopIteration("no"), SystemExit("no")):
        scheduler.trouble = trouble
        with pytest.raises(
            isthmus.PythonError, match="the executor of 'ex_remote' can't be had: no"
        ) as caught:
            bus.call("ex_remote")
        assert caught.value.type == type(trouble).__name__
    scheduler.trouble = None
    assert [bus.call("ex_remote"), bus.call("ex_remote_too"), bus.call("ex_remote")] == ["done"] * 3
    assert len(scheduler.asked) == 5


def test_a_function_that_returns_no_executor_is_an_error_of_the_call(bus):
    isthmus.export(name="ex_no_pool", executor=lambda: "threads")(lambda: "done")
    with pytest.raises(isthmus.PythonError, match="returned 'threads', which is no concurrent") as caught:
        bus.call("ex_no_pool")
    assert caught.value.type == "TypeError"
    assert "the executor of 'ex_no_pool'" in caught.value.message


def test_calls_that_end_while_they_wait_for_their_executor_leave_it_to_the_others(bus, until, scheduler):
    @isthmus.export(name="ex_tasks")
    async def tasks():
        return len(asyncio.all_tasks())

    isthmus.export(name="ex_given_up", executor=scheduler)(log.append)
    given_up = bus.submit("ex_given_up", "cancelled")
    staying = bus.submit("ex_given_up", "stayed")
    until(lambda: scheduler.asked)
    given_up.cancel()
    with pytest.raises(isthmus.TimeoutError):
        bus.call("ex_given_up", "late", timeout=0.05)
    until(lambda: bus.call("ex_tasks") == 2)
    scheduler.open.set()
    staying.result(20)
    bus.call("ex_given_up", "came")
    assert log == ["stayed", "came"]
    assert len(scheduler.asked) == 1


def test_a_host_that_drains_answers_those_that_wait_for_their_executor(name, until, scheduler):
    isthmus.export(name="ex_drained", executor=scheduler)(lambda: "done")
    with isthmus.Host(name) as host, isthmus.connect(name) as bus:
        waiting = bus.submit("ex_drained")
        until(lambda: scheduler.asked)
        host.drain()
        scheduler.open.set()
        assert waiting.result(20) == "done"
        host.wait()


@pytest.mark.parametrize("options", [[], ["--workers", "1", "--drain", "0.2"]])
def test_a_host_ends_while_a_function_never_returns_its_executor(serve, name, until, tmp_path, options):
    asked = tmp_path / "asked"
    app = f"""
        import pathlib, threading
        import isthmus

        def scheduler():
            pathlib.Path({str(asked)!r}).touch()
            threading.Event().wait()

        @isthmus.export(executor=scheduler)
        def never(): ...
    """
    host = serve(app, *options).ready()
    with isthmus.connect(name) as bus:
        waiting = bus.submit("never")
        until(asked.exists)
        assert host.end() == 0
        with pytest.raises((isthmus.PeerLost, isthmus.Cancelled, concurrent.futures.CancelledError)):
            waiting.result(20)


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
