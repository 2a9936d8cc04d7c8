"""The batch: one GIL take for many calls, answers that wait for no other, failures that stay alone."""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import isthmus

APP = """
    import os, threading, time
    import isthmus

    spun = 0
    isthmus.export(name="pid")(os.getpid)

    @isthmus.export
    def add(a, b):
        return a + b

    @isthmus.export
    def fail(x):
        raise ValueError(x)

    @isthmus.export
    def hold(flag):
        while not flag[0]:
            time.sleep(0.001)

    @isthmus.export
    def burn(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return seconds

    @isthmus.export
    def ones(size):
        import numpy as np
        return np.ones(size)

    @isthmus.export
    def start_other():
        def other():
            global spun
            while True:
                spun += 1
                time.sleep(0)
        threading.Thread(target=other, daemon=True).start()

    @isthmus.export
    def other():
        return spun
"""


@pytest.fixture
def bus(serve, name):
    serve(APP).ready()
    with isthmus.connect(name) as bus:
        bus.call("add", 1, 2)
        yield bus


class Held:
    """A call that keeps the host busy until it is let go."""

    def __init__(self, bus, until):
        self.flag = isthmus.empty(1, "int32")
        self.flag[0] = 0
        before = bus.stats()["host"]["gil_takes"]
        self.call = bus.submit("hold", self.flag)
        until(lambda: bus.stats()["host"]["gil_takes"] > before)

    def let_go(self):
        self.flag[0] = 1
        self.call.result(20)


def together(bus, until, calls):
    """Makes the calls while the host is busy, so that they are one batch. Their outcomes, in their order."""
    outcomes = [None] * len(calls)

    def call(i, name, *args):
        try:
            outcomes[i] = bus.call(name, *args)
        except isthmus.Error as error:
            outcomes[i] = error

    busy = Held(bus, until)
    before = bus.stats()
    callers = [threading.Thread(target=call, args=[i, *each]) for i, each in enumerate(calls)]
    for caller in callers:
        caller.start()
    until(lambda: bus.stats()["self"]["calls"] == before["self"]["calls"] + len(calls))
    busy.let_go()
    for caller in callers:
        caller.join()
    return outcomes, before["host"], bus.stats()["host"]


def test_calls_that_wait_are_one_batch_and_one_gil_take(bus, until):
    outcomes, before, after = together(bus, until, [("add", i, 1) for i in range(64)])
    assert outcomes == [i + 1 for i in range(64)]
    assert after["gil_takes"] - before["gil_takes"] <= 2
    assert after["batches"] - before["batches"] <= 2
    assert sum(after["batch_sizes"][5:]) - sum(before["batch_sizes"][5:]) >= 1
    assert after["replies"] - before["replies"] == 65


def test_a_failing_call_spares_the_rest_of_its_batch(bus, until):
    calls = [
        ("fail", i) if i % 3 == 0 else ("missing", i) if i % 3 == 1 else ("add", i, 1) for i in range(48)
    ]
    outcomes, before, after = together(bus, until, calls)
    for i, outcome in enumerate(outcomes):
        if i % 3 == 0:
            assert isinstance(outcome, isthmus.PythonError)
            assert outcome.remote_args == [i]
        elif i % 3 == 1:
            assert isinstance(outcome, isthmus.NotExported)
        else:
            assert outcome == i + 1
    assert after["errors"] - before["errors"] == 32
    assert after["gil_takes"] - before["gil_takes"] <= 4


def test_large_results_of_one_batch_all_arrive(bus, until):
    outcomes, _, _ = together(
        bus, until, [("ones", size) for size in (1, 20_000, 300, 100_000, 5000, 0, 30_000)] * 3
    )
    assert [len(each) for each in outcomes] == [1, 20_000, 300, 100_000, 5000, 0, 30_000] * 3
    assert all((np.asarray(each) == 1).all() for each in outcomes)


def test_an_answer_does_not_wait_for_a_slow_call_behind_it(bus, until):
    busy = Held(bus, until)
    flag = isthmus.empty(1, "int32")
    flag[0] = 0
    fast, slow, last = (bus.submit(*call) for call in [("add", 1, 2), ("hold", flag), ("add", 3, 4)])
    busy.let_go()
    assert fast.result(20) == 3
    assert not slow.done()
    assert not last.done()
    flag[0] = 1
    assert last.result(20) == 7
    assert slow.done()


def test_other_threads_of_the_host_get_the_gil_between_slices_of_a_batch(bus, until):
    bus.call("start_other")
    before = bus.call("other")
    outcomes, stats_before, stats_after = together(bus, until, [("burn", 0.004)] * 40)
    assert outcomes == [0.004] * 40
    assert stats_after["gil_takes"] - stats_before["gil_takes"] >= 10
    assert bus.call("other") > before


def test_a_call_whose_time_ran_out_in_the_middle_of_a_batch_is_not_begun(bus):
    before = bus.stats()["host"]["replies"]
    calls = [bus.submit("burn", 0.1, timeout=0.25) for _ in range(10)]
    late = [isinstance(call.exception(), isthmus.TimeoutError) for call in calls]
    assert late.count(True) >= 7
    time.sleep(0.2)
    assert bus.stats()["host"]["replies"] - before <= 4


def test_an_idle_host_sleeps(bus):
    def wakes():
        texts = [status.read_text() for status in Path(f"/proc/{pid}/task").glob("*/status")]
        return sum(int(text.split("voluntary_ctxt_switches:")[1].split()[0]) for text in texts)

    def awake():  # seconds
        tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    pid = bus.call("pid")
    time.sleep(0.1)
    before, sleeps = (wakes(), awake()), bus.stats()["host"]["sleeps"]
    time.sleep(2)
    assert wakes() - before[0] <= 60  # of all threads: a few looks a second
    assert awake() - before[1] <= 0.5  # whoever polls has all of one processor
    assert bus.stats()["host"]["sleeps"] - sleeps <= 4


LOAD = """
import sys, threading, isthmus
bus = isthmus.connect(sys.argv[1])
def work():
    for i in range(int(sys.argv[2])):
        assert bus.call("add", i, 1) == i + 1
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_under_load_from_several_processes_the_gil_is_taken_less_often_than_called(bus):
    before = bus.stats()["host"]
    command = [sys.executable, "-c", LOAD, bus.name, "1000"]
    callers = [subprocess.Popen(command) for _ in range(3)]
    assert [caller.wait(60) for caller in callers] == [0, 0, 0]
    after = bus.stats()["host"]
    calls = after["replies"] - before["replies"]
    assert calls == 24_000
    assert after["gil_takes"] - before["gil_takes"] < calls


def test_several_callers_have_their_own_answers(bus):
    others = [isthmus.connect(bus.name) for _ in range(5)]
    wrong = []

    def work(number, other):
        wrong.extend(i for i in range(300) if other.call("add", [number], [i]) != [number, i])

    threads = [threading.Thread(target=work, args=each) for each in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert wrong == []


def test_calls_that_wait_behind_slow_ones_do_not_wait_for_more(serve, name):
    serve("""
        import time, isthmus

        @isthmus.export
        def slow():
            time.sleep(0.0002)
    """).ready()
    with isthmus.connect(name) as bus:
        bus.call("slow")
        began = time.monotonic()
        for _ in range(5):
            for future in [bus.submit("slow") for _ in range(800)]:
                future.result()
        # Asleep, the host looks again after a second.
        assert time.monotonic() - began < 5


FLOODED = """
    import time
    from pathlib import Path
    import isthmus

    served = 0

    @isthmus.export
    def step(seconds, reached=None, go_on=None):
        global served
        served += 1
        if seconds:
            time.sleep(seconds)
        if reached:
            Path(reached).touch()
            while not Path(go_on).exists():
                time.sleep(0.001)

    isthmus.export(lambda: served, name="served")
"""


@pytest.mark.parametrize(
    ("seconds", "at", "most"),
    [
        pytest.param(0, 0, 320, id="quick calls: the rest of the batch and a turn"),
        pytest.param(0.001, 0, 8, id="slow calls that nobody knew to be slow"),
        pytest.param(0.001, 100, 8, id="slow calls: a few milliseconds of them"),
        pytest.param(0.01, 20, 2, id="very slow calls: the one that runs, and one more"),
    ],
)
def test_between_a_quiet_callers_call_and_its_turn_few_of_a_flooders_are_served(
    serve, name, until, tmp_path, seconds, at, most
):
    serve(FLOODED).ready()
    reached, go_on = tmp_path / "reached", tmp_path / "go_on"
    with isthmus.connect(name) as flooder, isthmus.connect(name) as quiet:
        assert quiet.call("served") == 0
        flood = [
            flooder.submit("step", seconds, *([str(reached), str(go_on)] if i == at else []))
            for i in range(at + 700)
        ]
        until(reached.exists)
        sent = quiet.stats()["self"]["calls"]
        asked = quiet.submit("served")
        until(lambda: quiet.stats()["self"]["calls"] > sent)
        go_on.touch()
        assert asked.result(20) - (at + 1) <= most
        for call in flood:
            call.cancel()


def test_many_callers_of_slow_calls_are_served_in_turns(serve, name, until, tmp_path):
    serve(FLOODED).ready()
    reached, go_on = tmp_path / "reached", tmp_path / "go_on"
    with contextlib.ExitStack() as stack:
        flooders = [stack.enter_context(isthmus.connect(name)) for _ in range(5)]
        quiet = stack.enter_context(isthmus.connect(name))
        assert quiet.call("served") == 0
        blocker = flooders[0].submit("step", 0.01, str(reached), str(go_on))
        until(reached.exists)
        floods = [[flooder.submit("step", 0.002) for _ in range(100)] for flooder in flooders]
        asked = quiet.submit("served")
        bus_of = [*flooders, quiet]
        until(lambda: sum(bus.stats()["self"]["calls"] for bus in bus_of) >= 5 * 100 + 3)
        go_on.touch()
        blocker.result(20)
        assert asked.result(20) - 1 <= 5 * 5  # at most 5 ms of calls for each take
        for flood in floods:
            flood[50].result(20)
        behind = [sum(call.done() for call in flood) for flood in floods]
        assert min(behind) >= 50
        assert max(behind) <= 51 + 2 * 5
        for flood in floods:
            for call in flood:
                call.cancel()
