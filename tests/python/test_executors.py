"""Exports that run on threads, or wherever an executor takes them."""

import asyncio
import concurrent.futures
import contextvars
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

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


def test_a_pool_of_processes_runs_what_can_be_pickled(bus):
    with concurrent.futures.ProcessPoolExecutor(1) as processes:
        isthmus.export(name="ex_process", executor=processes)(os.getpid)
        isthmus.export(name="ex_norm", executor=processes)(np.linalg.norm)
        isthmus.export(name="ex_square", executor=processes)(np.square)
        assert bus.call("ex_process") != os.getpid()
        assert bus.call("ex_norm", np.full(10_000, 3.0)) == 300.0
        argument = large(3.0)
        before = copied(bus)
        assert (bus.call("ex_square", argument) == 9.0).all()
        assert copied(bus) == before
        isthmus.export(name="ex_unpickled", executor=processes)(lambda: 1)
        with pytest.raises(isthmus.PythonError, match="pickle"):
            bus.call("ex_unpickled")


def test_processes_that_can_not_join_the_bus_get_the_bytes(bus, tmp_path):
    elsewhere = ("XDG_RUNTIME_DIR", str(tmp_path))
    with concurrent.futures.ProcessPoolExecutor(1, None, os.environ.__setitem__, elsewhere) as processes:
        isthmus.export(name="ex_far", executor=processes)(np.square)
        argument = large(3.0)
        before = copied(bus)
        for _ in range(3):
            assert (bus.call("ex_far", argument) == 9.0).all()
        assert copied(bus) == [before[0], before[1] + 3 * argument.nbytes]


def test_an_executor_of_this_process_gets_what_can_not_be_pickled(bus, until):
    array = large()
    heard = []
    for arguments in ((heard.append, array), (array, 1)):
        isthmus.export(name="ex_whatever", executor=elsewhere)(
            lambda x, y: x(len(y)) if callable(x) else x.sum()
        )
        call = bus.submit("ex_whatever", *arguments)
        until(lambda: elsewhere.submitted)
        elsewhere.run()
        result = call.result(20)
    assert heard == [LARGE]
    assert result == LARGE


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


APP = """
    import asyncio, os, pathlib, threading, time
    import isthmus
    import numpy as np

    class Unfit(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    @isthmus.export(executor="processes")
    def pid():
        return os.getpid()

    @isthmus.export(executor="processes")
    def double(array):
        return array * 2

    @isthmus.export(executor="processes")
    def see(*args, **kwargs):
        return [repr(args), repr(kwargs), repr(isthmus.current())]

    @isthmus.export(executor="processes")
    def same(value):
        return value

    @isthmus.export(executor="processes")
    def writable(array):
        return array.flags.writeable

    @isthmus.export(executor="processes")
    def fail(word):
        raise LookupError(word)

    @isthmus.export(executor="processes")
    def fail_unfit():
        raise Unfit("one", "two")

    @isthmus.export(executor="processes")
    def leave():
        raise SystemExit(3)

    @isthmus.export(executor="processes")
    def die():
        os._exit(3)

    @isthmus.export(executor="processes")
    def unpicklable():
        return threading.Lock()

    isthmus.export(name="unnamed", executor="processes")(lambda: 1)

    @isthmus.export(executor="processes")
    def hold(folder, array=None):
        '''Tells who has begun in a file of `folder`; ends once `folder`/open is there.'''
        folder = pathlib.Path(folder)
        (folder / str(os.getpid())).touch()
        while not (folder / "open").exists():
            time.sleep(0.002)
        return os.getpid()

    @isthmus.export(executor="processes")
    def double_later(folder, array):
        hold(folder)
        return array * 2

    @isthmus.export(executor="processes")
    def note(file):
        pathlib.Path(file).touch()

    @isthmus.export(executor="processes", batch=isthmus.Batch(max=8, wait=0.5))
    def sums(arrays):
        return [[float(array.sum()), os.getpid()] for array in arrays]

    @isthmus.export(executor="processes", batch=isthmus.Batch(max=2, wait=5, stack=True))
    def totals(stacked):
        return stacked.sum(axis=1)

    @isthmus.export
    async def turn():
        for _ in range(10):
            await asyncio.sleep(0)

    @isthmus.export
    def host_pid():
        return os.getpid()
"""

LARGE = 100_000  # numbers; 800 kB
PROCESSORS = min(len(os.sched_getaffinity(0)), 32)


@pytest.fixture
def away(serve, name):
    """A bus with exports that run in other processes."""
    host = serve(APP).ready()
    with isthmus.connect(name) as bus:
        bus.host = host
        yield bus


@pytest.fixture
def folder(tmp_path):
    """Where calls of `hold` tell that they have begun, and wait."""
    folder = tmp_path / "held"
    folder.mkdir()
    return folder


def large(value=1.0):
    array = isthmus.empty(LARGE)
    array[:] = value
    return array


def copied(bus):
    return [bus.stats()[who]["bytes_copied"] for who in ("self", "host")]


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid):
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def begun(folder):
    return [int(path.name) for path in folder.iterdir() if path.name != "open"]


def test_a_call_runs_in_another_process_which_is_there_for_the_next_ones(away):
    host = away.call("host_pid")
    assert host not in {away.call("pid") for _ in range(10)}
    assert away.call("same", {"a": [1, None, "b"]}) == {"a": [1, None, "b"]}
    args, kwargs, current = away.call("see", 1, b"bytes", name="x")
    assert args.startswith("(1, <memory at")
    assert [kwargs, current] == ["{'name': 'x'}", "None"]


def test_arrays_go_to_other_processes_and_back_as_handles(away):
    argument = large(2.0)
    before = copied(away)
    result = away.call("double", argument)
    assert (result == 4.0).all()
    assert len(result) == LARGE
    assert copied(away) == before
    assert (away.call("same", argument) == 2.0).all()
    assert bytes(away.call("same", memoryview(bytes(LARGE)))) == bytes(LARGE)
    assert not away.call("writable", argument)
    assert away.call("sums", argument)[0] == 2.0 * LARGE
    assert copied(away)[1] == before[1]


def test_what_other_processes_were_lent_ends_with_the_call(away, until):
    argument = large()
    kept = away.stats()["memory"]["leased"]
    for _ in range(3):
        away.call("double", argument)
        away.call("same", argument)
    with pytest.raises(isthmus.PythonError):
        away.call("fail", argument)
    with pytest.raises(isthmus.PythonError):
        away.call("die", argument)
    until(lambda: away.stats()["memory"]["leased"] == kept)


def test_batches_run_in_other_processes_too(away):
    calls = [away.submit("sums", large(value)) for value in range(8)]
    sums, pids = zip(*(call.result(20) for call in calls), strict=True)
    assert sums == tuple(LARGE * value for value in range(8))
    assert len(set(pids)) == 1
    calls = [away.submit("totals", large(value)) for value in (1, 2)]
    assert [call.result(20) for call in calls] == [LARGE, 2 * LARGE]


def test_errors_of_other_processes_are_as_clear_as_those_of_the_host(away):
    with pytest.raises(isthmus.PythonError, match="LookupError: lost") as caught:
        away.call("fail", "lost")
    assert "in fail" in caught.value.traceback
    assert caught.value.remote_args == ["lost"]
    with pytest.raises(isthmus.PythonError, match="one and two") as caught:
        away.call("fail_unfit")
    assert caught.value.type == "Unfit"
    with pytest.raises(isthmus.PythonError) as caught:
        away.call("leave")
    assert caught.value.type == "SystemExit"
    with pytest.raises(isthmus.PythonError, match=r"result of 'unpicklable'.* can't be pickled"):
        away.call("unpicklable")
    with pytest.raises(isthmus.PythonError, match=r"'<lambda>' can't run in another process.* top level"):
        away.call("unnamed")
    with pytest.raises(isthmus.PythonError, match=r"arguments of 'same'.* can't be pickled"):
        away.call("same", print)
    assert away.call("same", 1) == 1


def test_a_worker_that_dies_ends_the_calls_of_its_pool_and_the_next_ones_have_new_ones(away, until, folder):
    held = away.submit("hold", str(folder))
    worker = until(lambda: begun(folder))[0]
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(isthmus.PythonError, match="'hold' was lost: a worker process") as caught:
        held.result(20)
    assert caught.value.type == "PeerLost"
    with pytest.raises(isthmus.PythonError, match="'die' was lost"):
        away.call("die")
    assert away.call("pid") != worker


def test_one_that_dies_while_it_has_nothing_to_do_is_replaced_unnoticed(away, until):
    worker = away.call("pid")
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in children(away.call("host_pid")))
    until(lambda: sum(peer["worker"] is None for peer in away.peers()) == 1)
    assert away.call("pid") != worker


def test_what_is_cancelled_before_it_begins_in_another_process_never_does(away, until, folder, tmp_path):
    never = tmp_path / "never"
    calls = [away.submit("hold", str(folder)) for _ in range(PROCESSORS)]
    until(lambda: len(begun(folder)) == len(calls))
    waiting = [away.submit("note", str(never)) for _ in range(20)]
    away.call("turn")
    for call in waiting:
        call.cancel()
    away.call("turn")
    (folder / "open").touch()
    assert {call.result(20) for call in calls} == set(begun(folder))
    assert away.call("same", 1) == 1
    assert not never.exists()


def test_a_timeout_of_a_call_in_another_process_gives_its_arrays_back(away, until, folder):
    kept = away.stats()["memory"]["leased"]
    argument = large()
    with pytest.raises(isthmus.TimeoutError):
        away.call("hold", str(folder), argument, timeout=1)
    del argument
    (folder / "open").touch()
    until(lambda: away.stats()["memory"]["leased"] == kept)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_host_whatever_they_do(away, until, folder, number):
    calls = [away.submit("hold", str(folder)) for _ in range(PROCESSORS)]
    host = away.call("host_pid")
    until(lambda: len(begun(folder)) == len(calls))
    workers = children(host)
    assert set(begun(folder)) < set(workers)
    away.host.process.send_signal(number)
    away.host.process.wait(20)
    until(lambda: not any(alive(worker) for worker in workers))
    for call in calls:
        with pytest.raises(Exception, match=r"lost|stopped|cancelled|closed"):
            call.result(20)


def test_tokens_alone_open_what_waits_for_other_processes(away, until, folder):
    held = away.submit("hold", str(folder), large())
    until(lambda: begun(folder))
    assert not [name for peer in away.peers() for name in peer["exports"] if "isthmus" in name]
    with pytest.raises(isthmus.NotExported) as caught:
        away.call("isthmus.desk")
    assert caught.value.close == []
    (folder / "open").touch()
    assert held.result(20) in begun(folder)


def test_what_runs_in_other_processes_when_a_worker_drains_is_not_lost(serve, name, until, folder):
    host = serve(APP, "--workers", "1").ready()
    with isthmus.connect(name) as bus:
        held = bus.submit("double_later", str(folder), large())
        until(lambda: begun(folder))
        host.process.terminate()
        until(lambda: not [each for peer in bus.peers() for each in peer["exports"]])
        (folder / "open").touch()
        assert (held.result(20) == 2).all()
    assert host.wait() == 0


PROGRAM = """
import os
import isthmus

@isthmus.export(executor="processes")
def pid():
    return os.getpid()

"""


def test_a_program_of_its_own_runs_its_functions_in_other_processes(name, tmp_path):
    program = tmp_path / "program.py"
    call = f"""
if __name__ == "__main__":
    with isthmus.Host({name!r}), isthmus.connect({name!r}) as bus:
        print(bus.call("pid") != os.getpid())
"""
    program.write_text(PROGRAM + call)
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert [ran.stdout, ran.stderr, ran.returncode] == ["True\n", "", 0]


def test_one_that_serves_wherever_it_is_imported_is_told_what_to_do(name, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"{PROGRAM}isthmus.serve({name!r})\n")
    served = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.PIPE, text=True)
    try:
        with (
            isthmus.connect(name, wait=20) as bus,
            pytest.raises(isthmus.PythonError, match="'pid' was lost"),
        ):
            bus.call("pid")
    finally:
        served.terminate()
    assert "put the call under `if __name__ == '__main__':`" in served.communicate(timeout=20)[1]


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with Python 3.12"
)
def test_sub_interpreters_are_refused_processes(serve):
    app = """
        import os
        import isthmus

        isthmus.export(executor="processes")(os.getpid)
    """
    host = serve(app, "--worker-kind", "interpreter")
    assert "use --worker-kind process" in host.answer()["error"]["message"]
    assert host.wait() == 1
