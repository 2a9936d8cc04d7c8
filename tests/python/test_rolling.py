"""How workers are replaced while they are called: by SIGHUP, and with `--reload` by a change of a file."""

import os
import signal
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from isthmus.supervisor import Berth

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def sighup(served):
    served.process.send_signal(signal.SIGHUP)


def change(served):
    served.app.write_text(served.app.read_text() + "\n")


@pytest.mark.parametrize("roll", [sighup, change])
def test_all_workers_are_replaced_without_losing_a_call(serve, app, connect, until, pids_of, kind, roll):
    served = serve(app, "--workers", "2", "--worker-kind", kind, *["--reload"] * (roll is change)).ready()
    watcher = connect()
    processes = 2 if kind == "process" else 1
    before = pids_of(watcher, processes)
    done, answered = threading.Event(), []

    def keep_calling():
        caller = connect()
        while not done.is_set():
            answered.append(caller.call("pid"))
            answered.extend(call.result() for call in [caller.submit("pid") for _ in range(20)])

    with ThreadPoolExecutor(2) as threads:
        callers = [threads.submit(keep_calling) for _ in range(2)]
        for _ in range(2):
            roll(served)
            until(lambda old=before: not old & pids_of(watcher, processes))
            before = pids_of(watcher, processes)
        done.set()
        for caller in callers:
            caller.result()
    assert len(set(answered)) >= 2 * processes


def test_a_call_that_runs_ends_on_the_worker_that_it_began_on(serve, app, connect, gate, until, kind):
    served = serve(app, "--workers", "1", "--worker-kind", kind).ready()
    caller, held = connect(), gate()
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


def test_the_workers_stay_when_new_ones_can_not_be_started(serve, app, connect, pids_of):
    served = serve(app, "--workers", "2").ready()
    caller = connect()
    before = pids_of(caller, 2)
    served.app.write_text("no python\n")
    served.process.send_signal(signal.SIGHUP)
    line = served.process.stderr.readline()
    assert "goes on with the workers that it has" in line
    assert pids_of(caller, 2) == before


# --- reload ----------------------------------------------------------------------------------------------


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


def test_reload_rolls_when_a_file_of_the_app_changes(serve, connect, until, answers):
    served = serve(ANSWERS, "--workers", "2", "--reload").ready()
    caller = connect()
    assert caller.call("answer") == 1
    answers.write_text("answer = \n")
    assert "goes on with the workers that it has" in served.process.stderr.readline()
    assert caller.call("answer") == 1
    answers.write_text("answer = 22\n")
    until(lambda: {caller.call("answer") for _ in range(8)} == {22})


def test_reload_gives_up_what_never_serves_once_that_is_mended(serve, connect, until, answers):
    served = serve(ANSWERS, "--reload").ready()
    caller = connect()
    answers.write_text("import time\nprint('begins', flush=True)\ntime.sleep(600)\n")
    assert served.process.stdout.readline() == "begins\n"
    assert caller.call("answer") == 1
    answers.write_text("answer = 22\n")
    until(lambda: caller.call("answer") == 22)


def test_reload_looks_at_modules_that_could_not_be_imported_too(serve, connect, until, answers):
    served = serve(ANSWERS, "--reload").ready()
    caller = connect()
    new = answers.with_name("new_answers.py")
    new.write_text("answer = \n")
    answers.write_text("from new_answers import answer\n")
    assert "goes on with the workers that it has" in served.process.stderr.readline()
    new.write_text("answer = 22\n")
    until(lambda: caller.call("answer") == 22)


@pytest.mark.skipif(
    sys.version_info < (3, 12) or FREE_THREADED, reason="interpreters have no GIL of their own"
)
def test_an_interpreter_may_import_more_while_another_one_is_still_loading(serve, answers):
    app = f"""
        import os, threading, time
        import isthmus

        @isthmus.export
        def nothing(): ...

        def later():
            time.sleep(0.3)
            import answers

        try:
            os.mkdir({str(answers.with_name("first"))!r})
        except FileExistsError:
            time.sleep(1)
        else:
            threading.Thread(target=later).start()
    """
    assert serve(app, "--workers", "2", "--worker-kind", "interpreter", "--reload").ready().end() == 0


def test_reload_looks_at_modules_that_calls_import_too(serve, connect, until, answers, kind):
    app = """
        import isthmus

        @isthmus.export
        def answer():
            from answers import answer
            return answer
    """
    served = serve(app, "--workers", "2", "--worker-kind", kind, "--reload").ready()
    caller = connect()
    assert caller.call("answer") == 1
    answers.write_text("answer = 22\n")
    until(lambda: {caller.call("answer") for _ in range(8)} == {22})
    assert served.end() == 0
    assert served.stderr() == ""


@pytest.fixture
def berth():
    return Berth("worker 0", [])


SECOND = 1_000_000_000


def test_what_was_changed_within_a_tick_after_the_import_is_stale(berth, answers):
    changed = answers.stat().st_mtime_ns
    berth.remember([str(answers)], since=changed + 3_000_000)
    assert berth.is_stale(str(answers), changed)
    assert not berth.is_stale(str(answers), changed)


@pytest.mark.parametrize("order", [1, -1])
def test_one_of_two_interpreters_with_the_old_file_is_enough_whichever_tells_first(berth, answers, order):
    changed = answers.stat().st_mtime_ns
    for second in (-SECOND, SECOND)[::order]:
        berth.remember([str(answers)], since=changed + second)
    assert berth.is_stale(str(answers), changed)


def test_a_file_that_came_during_the_import_is_stale_once_however_old_it_is(berth, answers):
    changed = SECOND
    since = time.time_ns()
    os.utime(answers, ns=(changed, changed))
    for _ in range(2):
        berth.remember([str(answers)], since)
    assert berth.is_stale(str(answers), changed)
    berth.remember([str(answers)], since)
    assert not berth.is_stale(str(answers), changed)


def test_a_file_that_is_put_back_with_its_time_is_stale_again(berth, answers):
    before, after = SECOND, 2 * SECOND
    later = time.time_ns() + SECOND
    os.utime(answers, ns=(before, before))
    berth.remember([str(answers)], later)
    assert berth.is_stale(str(answers), after)
    os.utime(answers, ns=(after, after))
    berth.remember([str(answers)], later)
    assert berth.is_stale(str(answers), before)
