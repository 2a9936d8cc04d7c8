"""Exports whose calls run in other processes: `executor="processes"`."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import isthmus

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
def bus(name):
    """One whose host is this process."""
    with isthmus.Host(name), isthmus.connect(name) as bus:
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
