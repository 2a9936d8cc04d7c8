"""`serve --workers`: who is called, what becomes of those that die, and how they are replaced."""

import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import isthmus

APP = """
    import asyncio, os, pathlib, time
    import isthmus

    @isthmus.export
    def pid():
        return os.getpid()

    @isthmus.export
    def hold(gate):
        '''Tells that it has begun, and who, in `gate`.begun; ends once the file `gate` is there.'''
        gate = pathlib.Path(gate)
        gate.with_suffix('.begun').write_text(str(os.getpid()))
        while not gate.exists():
            time.sleep(0.002)
        return os.getpid()

    @isthmus.export
    async def hold_on_loop(gate):
        pathlib.Path(gate).with_suffix('.begun').write_text(str(os.getpid()))
        while not pathlib.Path(gate).exists():
            await asyncio.sleep(0.002)
        return os.getpid()

    @isthmus.export
    def count(items):
        for i in range(items):
            yield [i, os.getpid()]
"""


class Gate:
    """Holds calls of `hold` back."""

    def __init__(self, path, until):
        self.path = path
        self._until = until

    def holder(self):
        """The process of the call that has come to it."""
        begun = self.path.with_suffix(".begun")
        return int(self._until(lambda: begun.exists() and begun.read_text()))

    def open(self):
        self.path.touch()


@pytest.fixture
def gate(tmp_path, until):
    def gate(name="gate"):
        return Gate(tmp_path / name, until)

    return gate


@pytest.fixture
def bus(name):
    """Connects once it is asked to."""
    buses = []

    def bus(**options):
        buses.append(isthmus.connect(name, **options))
        return buses[-1]

    yield bus
    for one in buses:
        one.close()


def pids_of(bus, until, count):
    """The processes of so many workers: calls are made at the same time until that many have answered."""
    seen = set()

    def find():
        seen.update(call.result() for call in [bus.submit("pid") for _ in range(16 * count)])
        return len(seen) >= count

    until(find)
    return seen


def workers_of(bus):
    """The processes of the workers that are on the bus."""
    return {peer["pid"] for peer in bus.peers() if peer["worker"] is not None}


# --- who is called ---------------------------------------------------------------------------------------


def test_a_call_goes_to_the_worker_with_the_least_to_do(serve, bus, gate):
    serve(APP, "--workers", "2").ready()
    caller, held = bus(), gate()
    busy = caller.submit("hold", str(held.path))
    others = {caller.call("pid") for _ in range(20)}
    assert others == {caller.call("pid")} != {held.holder()}
    held.open()
    assert busy.result() == held.holder()


def test_also_when_others_have_made_it_busy(serve, bus, gate):
    serve(APP, "--workers", "2").ready()
    first, held = bus(), gate()
    busy = first.submit("hold", str(held.path))
    holder = held.holder()
    for caller in (bus(), bus(), bus()):
        assert caller.call("pid") != holder
    held.open()
    busy.result()


def test_as_many_calls_run_at_the_same_time_as_there_are_workers(serve, bus, gate):
    serve(APP, "--workers", "3").ready()
    caller, gates = bus(), [gate(f"gate{i}") for i in range(3)]
    calls = [caller.submit("hold", str(each.path)) for each in gates]
    holders = [each.holder() for each in gates]
    assert len(set(holders)) == 3
    for each in gates:
        each.open()
    assert [call.result() for call in calls] == holders


def test_a_key_leads_all_callers_to_the_same_worker(serve, bus):
    serve(APP, "--workers", "3").ready()
    one, other = bus(), bus()
    places = {f"key {i}": one.call("pid", sticky=f"key {i}") for i in range(40)}
    assert {key: other.call("pid", sticky=key) for key in places} == places
    assert [one.submit("pid", sticky="key 7").result() for _ in range(9)] == 9 * [places["key 7"]]
    assert len(set(places.values())) == 3


def test_when_a_worker_dies_only_its_keys_move_and_they_come_back(serve, bus, until):
    serve(APP, "--workers", "3").ready()
    caller = bus()

    def places():
        return {key: caller.call("pid", sticky=f"key {key}") for key in range(40)}

    before = places()
    victim = before[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: workers_of(caller) - set(before.values()))
    until(lambda: caller.call("pid", sticky="key 0") not in before.values())
    after = places()
    assert {key: pid for key, pid in after.items() if before[key] != victim} == {
        key: pid for key, pid in before.items() if pid != victim
    }
    assert len({after[key] for key, pid in before.items() if pid == victim}) == 1


def test_a_sticky_caller_stays_with_one_worker_unless_a_call_says_otherwise(serve, bus):
    serve(APP, "--workers", "3").ready()
    caller = bus(sticky=True)
    home = caller.call("pid")
    assert {call.result() for call in [caller.submit("pid") for _ in range(60)]} == {home}
    spread = [caller.submit("pid", sticky=False) for _ in range(60)]
    assert len({call.result() for call in spread}) > 1
    assert bus().call("pid", sticky=True) > 0


def test_what_is_no_key_is_an_error(serve, bus):
    serve(APP, "--workers", "2").ready()
    with pytest.raises(TypeError, match="sticky is True or a text that is the key, not 5"):
        bus().call("pid", sticky=5)


# --- what dies -------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_its_own_calls_and_no_others(serve, bus, gate):
    serve(APP, "--workers", "2").ready()
    caller, one, two = bus(), gate("one"), gate("two")
    lost, kept = caller.submit("hold", str(one.path)), caller.submit("hold_on_loop", str(two.path))
    assert one.holder() != two.holder()
    os.kill(one.holder(), signal.SIGKILL)
    with pytest.raises(isthmus.PeerLost):
        lost.result()
    assert caller.call("pid") != one.holder()
    two.open()
    assert kept.result() == two.holder()


def test_and_is_started_again_with_a_word_on_why(serve, bus, until):
    served = serve(APP, "--workers", "2").ready()
    caller = bus()
    before = pids_of(caller, until, 2)
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)
    until(lambda: workers_of(caller) - before - {victim})
    assert victim not in pids_of(caller, until, 2)
    assert served.end() == 0
    assert f"(pid {victim}) was killed by SIGKILL; the next one is started in 0.1 s" in served.stderr()


def test_what_keeps_dying_is_started_after_growing_delays(serve, bus, tmp_path, until):
    broken = tmp_path / "broken"
    served = serve(
        f"import pathlib\nassert not pathlib.Path({str(broken)!r}).exists()\n{textwrap.dedent(APP)}",
        "--workers",
        "1",
    ).ready()
    caller = bus()
    first = caller.call("pid")
    broken.touch()
    os.kill(first, signal.SIGKILL)
    text = ""
    while "0.8 s" not in text:
        text += served.process.stderr.readline()
    assert "AssertionError" in text
    assert [f"in {delay} s" in text for delay in ("0.1", "0.2", "0.4", "0.8")] == [True] * 4
    broken.unlink()

    def answered():
        try:
            return caller.call("pid")
        except isthmus.PeerLost:
            return None

    assert until(answered) != first


def test_when_the_supervisor_is_killed_its_workers_end_and_callers_are_told(
    serve, bus, gate, until, sockets, name
):
    served = serve(APP, "--workers", "2").ready()
    caller, held = bus(), gate()
    call = caller.submit("hold", str(held.path))
    holder = held.holder()
    served.end(signal.SIGKILL)
    with pytest.raises(isthmus.PeerLost):
        call.result()
    until(lambda: not Path(f"/proc/{holder}").exists())
    for left in sockets.glob(f"{name}.*"):
        left.unlink()


# --- draining --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["hold", "hold_on_loop"])
def test_sigterm_lets_calls_end_and_takes_no_more(serve, bus, gate, until, export):
    served = serve(APP, "--workers", "2").ready()
    caller, held = bus(), gate()
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


def test_a_caller_that_is_stopped_keeps_no_worker_from_leaving(serve, name):
    served = serve(APP, "--workers", "2").ready()
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


def test_calls_that_were_not_sent_go_to_the_worker_that_lives(serve, bus, gate):
    serve(APP, "--workers", "2").ready()
    caller, held = bus(), gate()
    caller.submit("hold", str(held.path), sticky=True)
    holder = held.holder()
    others = [caller.submit("pid", sticky=True) for _ in range(5000)]
    os.kill(holder, signal.SIGKILL)
    errors = [other.exception() for other in others]
    assert all(error is None or isinstance(error, isthmus.PeerLost) for error in errors)
    assert any(error is None for error in errors)


def test_a_stream_is_read_to_its_end_while_its_worker_drains(serve, bus):
    served = serve(APP, "--workers", "1").ready()
    items = bus().stream("count", 20_000)
    assert next(items)[0] == 0
    served.process.send_signal(signal.SIGTERM)
    assert [i for i, _ in items] == list(range(1, 20_000))
    assert served.wait() == 0


def test_calls_that_take_too_long_are_ended(serve, bus, gate):
    served = serve(APP, "--workers", "1", "--drain", "0.2").ready()
    held = gate()
    call = bus().submit("hold", str(held.path))
    held.holder()
    served.process.send_signal(signal.SIGTERM)
    with pytest.raises(isthmus.PeerLost):
        call.result()
    assert served.wait() == 0
    assert "it did not end within 0.2 s" in served.stderr()


# --- rolling ---------------------------------------------------------------------------------------------


def test_sighup_replaces_all_workers_without_losing_a_call(serve, bus, until):
    served = serve(APP, "--workers", "2").ready()
    watcher = bus()
    before = pids_of(watcher, until, 2)
    done, answered = threading.Event(), []

    def keep_calling():
        caller = bus()
        while not done.is_set():
            answered.append(caller.call("pid"))
            answered.extend(call.result() for call in [caller.submit("pid") for _ in range(20)])

    with ThreadPoolExecutor(2) as threads:
        callers = [threads.submit(keep_calling) for _ in range(2)]
        for _ in range(2):
            served.process.send_signal(signal.SIGHUP)
            until(lambda old=before: not old & pids_of(watcher, until, 2))
            before = pids_of(watcher, until, 2)
        done.set()
        for caller in callers:
            caller.result()
    assert len(set(answered)) >= 4


def test_a_call_that_runs_ends_on_the_worker_that_it_began_on(serve, bus, gate, until):
    served = serve(APP, "--workers", "1").ready()
    caller, held = bus(), gate()
    call = caller.submit("hold", str(held.path))
    holder = held.holder()
    served.process.send_signal(signal.SIGHUP)
    calls = []
    answered = until(lambda: calls.append(caller.submit("pid")) or [one for one in calls if one.done()])
    assert answered[0].result() != holder
    assert not call.done()
    held.open()
    assert call.result() == holder
    assert {one.result() for one in calls} <= {holder, answered[0].result()}


def test_the_workers_stay_when_new_ones_can_not_be_started(serve, bus, until):
    served = serve(APP, "--workers", "2").ready()
    caller = bus()
    before = pids_of(caller, until, 2)
    served.app.write_text("no python\n")
    served.process.send_signal(signal.SIGHUP)
    line = served.process.stderr.readline()
    assert "goes on with the workers that it has" in line
    assert pids_of(caller, until, 2) == before


ANSWERS = """
    import isthmus
    import answers

    @isthmus.export
    def answer():
        return answers.answer
"""


@pytest.fixture
def answers(tmp_path):
    module = tmp_path / "answers.py"
    module.write_text("answer = 1\n")
    return module


def test_reload_rolls_when_a_file_of_the_app_changes(serve, bus, until, answers):
    served = serve(ANSWERS, "--workers", "2", "--reload").ready()
    caller = bus()
    assert caller.call("answer") == 1
    answers.write_text("answer = \n")
    assert "goes on with the workers that it has" in served.process.stderr.readline()
    assert caller.call("answer") == 1
    answers.write_text("answer = 22\n")
    until(lambda: {caller.call("answer") for _ in range(8)} == {22})


def test_reload_gives_up_what_never_serves_once_that_is_mended(serve, bus, until, answers):
    served = serve(ANSWERS, "--reload").ready()
    caller = bus()
    answers.write_text("import time\nprint('begins', flush=True)\ntime.sleep(600)\n")
    assert served.process.stdout.readline() == "begins\n"
    assert caller.call("answer") == 1
    answers.write_text("answer = 22\n")
    until(lambda: caller.call("answer") == 22)


def test_reload_looks_at_modules_that_could_not_be_imported_too(serve, bus, until, answers):
    served = serve(ANSWERS, "--reload").ready()
    caller = bus()
    new = answers.with_name("new_answers.py")
    new.write_text("answer = \n")
    answers.write_text("from new_answers import answer\n")
    assert "goes on with the workers that it has" in served.process.stderr.readline()
    new.write_text("answer = 22\n")
    until(lambda: caller.call("answer") == 22)


def test_the_hang_up_of_a_terminal_is_for_the_supervisor(serve, bus):
    serve(APP, "--workers", "1").ready()
    caller = bus()
    worker = caller.call("pid")
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(worker, number)
    assert caller.call("pid") == worker


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


def test_sigterm_while_workers_start_ends_them(serve):
    served = serve("import time\nprint('starts', flush=True)\ntime.sleep(60)", "--workers", "2")
    assert served.process.stdout.readline().startswith("starts")  # of one, or of both
    assert served.end() == 0


@pytest.mark.parametrize("count", ["0", "64", "two"])
def test_a_number_of_workers_that_is_none_is_a_usage_error(serve, count):
    served = serve(APP, "--workers", count)
    assert served.wait() == 2
    assert f"'{count}' is no number of workers" in served.stderr()


if sysconfig.get_config_var("Py_GIL_DISABLED"):

    def test_threads_that_run_at_the_same_time_are_workers_too(serve, bus, gate):
        served = serve(APP, "--workers", "2", "--worker-kind", "thread").ready()
        caller, gates = bus(), [gate("one"), gate("two")]
        calls = [caller.submit("hold", str(each.path)) for each in gates]
        assert {each.holder() for each in gates} == {gates[0].holder()}
        for each in gates:
            each.open()
        assert {call.result() for call in calls} == {gates[0].holder()}
        assert served.end() == 0

else:

    def test_threads_are_refused_by_a_python_with_a_gil(serve):
        served = serve(APP, "--workers", "2", "--worker-kind", "thread")
        assert "in a free-threaded build of Python alone" in served.answer()["error"]["message"]
        assert served.wait() == 2


if sys.version_info < (3, 12):

    def test_interpreters_are_refused_by_a_python_that_is_too_old(serve):
        served = serve(APP, "--workers", "2", "--worker-kind", "interpreter")
        assert "need Python 3.12 or later" in served.answer()["error"]["message"]
        assert served.wait() == 2

else:
    IN_INTERPRETERS = """
        import asyncio
        import isthmus

        me = object()

        @isthmus.export
        def who():
            return id(me)

        @isthmus.export
        async def later():
            await asyncio.sleep(0)
            return id(me)
    """

    @pytest.mark.parametrize("export", ["who", "later"])
    def test_an_interpreter_is_a_worker_with_a_copy_of_the_app_of_its_own(serve, bus, until, export):
        served = serve(IN_INTERPRETERS, "--workers", "2", "--worker-kind", "interpreter").ready()
        caller, seen = bus(), set()
        until(
            lambda: (
                seen.update(call.result() for call in [caller.submit(export) for _ in range(32)])
                or len(seen) == 2
            )
        )
        assert served.end() == 0

    def test_interpreters_roll_and_drain_like_processes(serve, bus, until):
        served = serve(IN_INTERPRETERS, "--workers", "2", "--worker-kind", "interpreter").ready()
        caller = bus()
        before = workers_of(caller)
        served.process.send_signal(signal.SIGHUP)

        def others():
            caller.call("who")
            return not before & workers_of(caller)

        until(others)
        assert served.end() == 0

    def test_modules_that_can_not_be_loaded_there_are_refused_with_a_way_out(serve):
        served = serve("import numpy", "--workers", "2", "--worker-kind", "interpreter")
        error = served.answer()["error"]
        assert error["type"] == "ImportError"
        assert "--worker-kind process" in error["message"]
        assert served.wait() == 1


# --- services ---------------------------------------------------------------------------------------------


@pytest.fixture
def join(tmp_path, name, served_type):
    """Serves another source on the same bus."""
    joined = []

    def join(source, *options):
        folder = tmp_path / f"joined{len(joined)}"
        folder.mkdir()
        joined.append(served_type(folder, name, source, "--join", *options))
        return joined[-1]

    yield join
    for one in joined:
        one.end()
        one.close()


OTHER = """
    import isthmus

    @isthmus.export
    def other():
        return "other"
"""


def test_several_services_share_a_bus_and_come_and_go(serve, join, bus, until):
    serve(APP).ready()
    caller = bus()
    joined = join(OTHER, "--workers", "2").ready()
    assert until(lambda: _called(caller, "other")) == "other"
    assert caller.call("pid") > 0
    assert joined.end() == 0
    with pytest.raises(isthmus.PeerLost):
        caller.call("other")
    assert caller.call("pid") > 0


def _called(caller, name):
    try:
        return caller.call(name)
    except isthmus.NotExported:
        return None


def test_a_bus_that_is_not_there_can_not_be_joined_by_a_service(join, name):
    served = join(OTHER)
    assert f"no bus named '{name}'" in served.answer()["error"]["message"]
    assert served.wait() == 3


def test_connect_waits_for_a_bus_if_asked(serve, name):
    with pytest.raises(isthmus.ConnectError):
        isthmus.connect(name)
    with pytest.raises(isthmus.ConnectError):
        isthmus.connect(name, wait=0.05)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(isthmus.connect, name, wait=60)
        serve(APP).ready()
        with waiting.result() as caller:
            assert caller.call("pid") > 0


def ls(*arguments):
    command = [sys.executable, "-m", "isthmus", "ls", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_ls_shows_services_workers_and_callers(serve, join, bus, name):
    serve(APP, "--workers", "2").ready()
    join(OTHER).ready()
    caller = bus()
    caller.call("pid")
    shown = ls(name)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == name
    assert sum("app.py" in line and "0 calls: count, hold, hold_on_loop, pid" in line for line in lines) == 2
    assert sum(line.endswith("0 calls: other") for line in lines) == 1
    assert any(f"pid {os.getpid()}" in line for line in lines)
    assert name in ls().stdout


def test_ls_of_a_bus_that_is_not_there_is_told_by_its_exit_code(name):
    shown = ls(name)
    assert shown.returncode == 3
    assert f"no bus named '{name}'" in shown.stderr
