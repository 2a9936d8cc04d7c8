"""`serve --workers`: how workers begin, are started again when they die, and end."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import isthmus
from isthmus.supervisor import Berth, Child, Supervisor

# --- beginning -------------------------------------------------------------------------------------------


def test_an_app_that_can_not_be_imported_is_told_once(serve, tmp_path):
    served = serve("import no_such_module", "--workers", "3")
    assert served.answer()["error"]["type"] == "ModuleNotFoundError"
    assert served.wait() == 1
    assert served.stderr() == ""  # its parent tells it
    alone = subprocess.run(
        [sys.executable, "-m", "isthmus", "serve", tmp_path / "app.py", "--workers", "3"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert alone.returncode == 1
    assert alone.stderr.count("ModuleNotFoundError") == 1


def test_a_worker_that_dies_at_the_beginning_is_an_error(serve):
    served = serve("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "--workers", "2")
    assert "was killed by SIGKILL before it served" in served.answer()["error"]["message"]
    assert served.wait() == 1


def test_a_worker_that_can_not_serve_and_does_not_end_is_ended(serve):
    source = """
        import threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        raise ValueError("no")
    """
    served = serve(source, "--workers", "1")
    assert served.answer()["error"]["message"] == "no"
    assert served.wait() == 1


def test_all_that_can_not_serve_have_ended_when_their_supervisor_ends(serve, tmp_path):
    source = f"""
        import os, pathlib, signal, threading, time

        folder = pathlib.Path({str(tmp_path)!r})

        def linger():
            threading.main_thread().join()  # it has said why it can't serve
            (folder / "lingers").write_text(str(os.getpid()))
            time.sleep(600)

        try:
            (folder / "first").touch(exist_ok=False)
        except FileExistsError:
            while not (folder / "lingers").exists():
                time.sleep(0.002)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Thread(target=linger).start()
        raise ValueError("no")
    """
    served = serve(source, "--workers", "2")
    assert served.answer()["error"]["message"] == "no"
    assert served.wait() == 1
    assert served.stderr() == ""
    lingering = int((tmp_path / "lingers").read_text())
    assert not Path(f"/proc/{lingering}").exists()


def test_a_worker_that_dies_at_the_beginning_is_noticed_though_its_child_lives(serve):
    source = """
        import os, time
        child = os.fork()
        if child == 0:
            time.sleep(600)
        print(child, flush=True)
        os._exit(3)
    """
    served = serve(source, "--workers", "1")
    child = int(served.process.stdout.readline())
    assert "ended with exit code 3 before it served" in served.answer()["error"]["message"]
    assert served.wait() == 1
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("count", ["0", "64", "two"])
def test_a_number_of_workers_that_is_none_is_a_usage_error(serve, app, count):
    served = serve(app, "--workers", count)
    assert served.wait() == 2
    assert f"'{count}' is no number of workers" in served.stderr()


def test_sigterm_while_workers_start_ends_them(serve):
    served = serve("import time\nprint('starts', flush=True)\ntime.sleep(60)", "--workers", "2")
    assert served.process.stdout.readline().startswith("starts")  # of one, or of both
    assert served.end() == 0


# --- what dies -------------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again_with_a_word_on_why(serve, app, connect, until, pids_of, workers_of):
    served = serve(app, "--workers", "2").ready()
    caller = connect()
    before = pids_of(caller, 2)
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)
    until(lambda: workers_of(caller) - before - {victim})
    assert victim not in pids_of(caller, 2)
    assert served.end() == 0
    assert f"(pid {victim}) was killed by SIGKILL; the next one is started in 0.1 s" in served.stderr()


def test_what_keeps_dying_is_started_after_growing_delays(serve, app, connect, successor_of, tmp_path):
    broken = tmp_path / "broken"
    served = serve(
        f"import pathlib\nassert not pathlib.Path({str(broken)!r}).exists()\n{app}",
        "--workers",
        "1",
    ).ready()
    caller = connect()
    first = caller.call("pid")
    broken.touch()
    os.kill(first, signal.SIGKILL)
    text = ""
    while "0.8 s" not in text:
        text += served.process.stderr.readline()
    assert "AssertionError" in text
    assert [f"in {delay} s" in text for delay in ("0.1", "0.2", "0.4", "0.8")] == [True] * 4
    broken.unlink()
    successor_of(caller, first)


def test_when_the_supervisor_is_killed_its_workers_end_and_callers_are_told(
    serve, app, connect, gate, until, sockets, name, kind
):
    served = serve(app, "--workers", "2", "--worker-kind", kind).ready()
    caller, held = connect(), gate()
    call = caller.submit("hold", str(held.path))
    holder = held.holder()
    served.end(signal.SIGKILL)
    with pytest.raises(isthmus.PeerLost):
        call.result()
    until(lambda: not Path(f"/proc/{holder}").exists())
    for left in sockets.glob(f"{name}.*"):
        left.unlink()


def test_the_hang_up_of_a_terminal_is_for_the_supervisor(serve, app, connect):
    serve(app, "--workers", "1").ready()
    caller = connect()
    worker = caller.call("pid")
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(worker, number)
    assert caller.call("pid") == worker


# --- draining --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["hold", "hold_on_loop"])
def test_sigterm_lets_calls_end_and_takes_no_more(serve, app, connect, gate, until, kind, export):
    served = serve(app, "--workers", "2", "--worker-kind", kind).ready()
    caller, held = connect(), gate()
    call = caller.submit(export, str(held.path))
    holder = held.holder()
    served.process.send_signal(signal.SIGTERM)
    others = []

    def refused():
        others.append(caller.submit("pid"))
        return any(other.done() and isinstance(other.exception(), isthmus.PeerLost) for other in others)

    until(refused)
    assert not call.done()
    held.open()
    assert call.result() == holder
    for other in others:  # one may have come to the holder before that took no more
        assert isinstance(other.exception(), isthmus.PeerLost | None)
    assert served.wait() == 0


def test_a_caller_that_is_stopped_keeps_no_worker_from_leaving(serve, app, name):
    served = serve(app, "--workers", "2").ready()
    code = f"import isthmus, os; bus = isthmus.connect({name!r}); bus.call('pid'); os.kill(0, 19)  # SIGSTOP"
    stopped = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
        served.process.send_signal(signal.SIGTERM)
        assert served.wait() == 0
        assert "killed" not in served.stderr()
    finally:
        stopped.kill()
        stopped.wait()


def test_a_stream_is_read_to_its_end_while_its_worker_drains(serve, app, connect, kind):
    served = serve(app, "--workers", "1", "--worker-kind", kind).ready()
    items = connect().stream("count", 20_000)
    assert next(items)[0] == 0
    served.process.send_signal(signal.SIGTERM)
    assert [i for i, _ in items] == list(range(1, 20_000))
    assert served.wait() == 0


def test_calls_that_take_too_long_are_ended(serve, app, connect, gate, kind):
    served = serve(app, "--workers", "1", "--worker-kind", kind, "--drain", "0.2").ready()
    held = gate()
    call = connect().submit("hold", str(held.path))
    held.holder()
    served.process.send_signal(signal.SIGTERM)
    with pytest.raises(isthmus.PeerLost):
        call.result()
    assert served.wait() == 0
    assert "it did not end within 0.2 s" in served.stderr()


ABORTS_AT_ITS_END = """
    import atexit, os
    import isthmus

    atexit.register(os.abort)

    @isthmus.export
    def pid():
        return os.getpid()
"""


def test_workers_that_crash_when_they_are_told_to_end_are_named(serve, connect, until, workers_of):
    served = serve(ABORTS_AT_ITS_END, "--workers", "1").ready()
    caller = connect()
    first = caller.call("pid")
    served.process.send_signal(signal.SIGHUP)
    until(lambda: first not in workers_of(caller))
    second = caller.call("pid")
    assert served.end() == 0
    assert sorted(served.stderr().splitlines()) == sorted(
        f"isthmus: worker 0 (pid {pid}) was killed by SIGABRT once it was told to end"
        for pid in (first, second)
    )


def test_workers_that_end_as_they_are_told_are_not_worth_a_word(serve, app, connect, until, workers_of):
    served = serve(app, "--workers", "2").ready()
    caller = connect()
    before = workers_of(caller)
    served.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers_of(caller) - before) == 2 and not workers_of(caller) & before)
    assert served.end() == 0
    assert served.stderr() == ""


# --- who follows whom ------------------------------------------------------------------------------------


async def _until(condition):
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("what was waited for did not happen")


class Kept:
    """A supervisor with one berth, whose processes sleep. The next ``failures`` launches fail."""

    def __init__(self, restart):
        self.failures = 0
        self.spare = []  # processes that are there at once
        self.berth = Berth("sleeper", ["sleep", "600"], False, restart, self._launch)
        self.supervisor = Supervisor("nowhere", [self.berth], patience=20)

    async def _launch(self, command, fds):
        if self.failures > 0:
            self.failures -= 1
            raise BlockingIOError("no process is to be had")
        if self.spare:
            return self.spare.pop()
        return await Child.launch(command, fds)

    @contextlib.asynccontextmanager
    async def running(self):
        ready = asyncio.Event()
        running = asyncio.ensure_future(self.supervisor.run(None, ready.set))
        await ready.wait()
        await _until(lambda: self.berth.crew is not None)
        try:
            yield running
        finally:
            self.supervisor._stop.set()
            await asyncio.wait([running])


@pytest.mark.parametrize("restart", ["always", "on-failure", "never"])
def test_one_that_left_for_a_successor_that_could_not_be_started_is_not_done(restart):
    async def main():
        kept = Kept(restart)
        async with kept.running() as running:
            first = kept.berth.crew
            kept.failures = 2
            os.kill(os.getpid(), signal.SIGHUP)
            await _until(lambda: running.done() or kept.berth.crew not in (None, first))
            assert not running.done()
            assert kept.failures == 0

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(5))
def test_a_successor_that_is_ready_in_the_moment_of_a_roll_is_replaced(monkeypatch, turns):
    async def main():
        kept = Kept("always")
        begun = []

        async def begin(berth):
            begun.append(berth)
            if len(begun) == 2:
                kept.spare = [await Child.launch(berth.command, [])]
                os.kill(os.getpid(), signal.SIGHUP)
                await berth.hurry.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
            await begin_crew(berth)

        async with kept.running():
            begin_crew = kept.supervisor._begin
            monkeypatch.setattr(kept.supervisor, "_begin", begin)
            begun.append(kept.berth)
            kept.berth.crew.kill()
            await _until(lambda: len(begun) == 3 and kept.berth.crew is not None)

    asyncio.run(main())
