"""Hosts begin and end: by hand, by block, by signal, with the interpreter, and by force."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import isthmus


@isthmus.export
def nine():
    return 9


def dispatchers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("isthmus-")]


def test_a_host_serves_for_as_long_as_its_block_runs(name, sockets):
    with isthmus.Host(name) as host:
        assert host.is_open
        assert (sockets / f"{name}.sock").exists()
        assert dispatchers() == [f"isthmus-{name}"]
        with isthmus.connect(name) as bus:
            assert bus.call("nine") == 9
    assert not host.is_open
    assert not (sockets / f"{name}.sock").exists()
    assert dispatchers() == []
    with pytest.raises(isthmus.ConnectError):
        isthmus.connect(name)


def test_an_async_block_leaves_the_event_loop_free(name):
    async def main():
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            result = await asyncio.to_thread(bus.call, "nine")
            await asyncio.to_thread(bus.close)
            return result

    assert asyncio.run(main()) == 9
    assert dispatchers() == []


def test_stats_tell_who_has_what_of_the_memory_and_a_refusal_says_so(name):
    mib = 1 << 20
    with isthmus.Host(name, memory="16MiB", quota=10 * mib) as host:
        before = host.stats()["memory"]
        assert (before["bytes"], before["quota"], before["leased"]) == (16 * mib, 10 * mib, 0)
        held = isthmus.empty(8 * mib, "uint8")
        memory = host.stats()["memory"]
        assert memory["leased"] == before["free"] - memory["free"] == 8 * mib
        assert [(peer["pid"], peer["owned"], peer["leased"]) for peer in memory["peers"]] == [
            (os.getpid(), 8 * mib, 8 * mib)
        ]
        with pytest.raises(
            isthmus.BusFull, match=r"no room for 3 MiB: this peer owns 8 MiB .* 10 MiB of 16 MiB"
        ):
            isthmus.empty(3 * mib, "uint8")
        with pytest.raises(isthmus.BusFull, match="17 MiB are more than the bus's whole memory"):
            isthmus.empty(17 * mib, "uint8")
        del held


def test_a_bus_is_served_once(name):
    with isthmus.Host(name) as host:
        with pytest.raises(isthmus.ConnectError, match=f"a bus named '{name}' is being served already"):
            isthmus.Host(name).start()
        with pytest.raises(isthmus.Error, match="was started already"):
            host.start()
    with isthmus.Host(name):
        pass


def test_a_host_stops_twice_without_harm_and_serves_once(name):
    host = isthmus.Host(name)
    host.stop()
    host.start()
    host.stop()
    host.stop()
    with pytest.raises(isthmus.Error, match="was started already"):
        host.start()


def test_several_hosts_live_in_one_process(name):
    second = f"{name}-b"
    with (
        isthmus.Host(name),
        isthmus.Host(second),
        isthmus.connect(name) as one,
        isthmus.connect(second) as two,
    ):
        assert one.call("nine") + two.call("nine") == 18


@pytest.mark.parametrize("memory", ["much", -1, 0, "12X", 1 << 60])
def test_an_amount_of_memory_that_is_none_is_refused(memory):
    with pytest.raises(ValueError, match="memory"):
        isthmus.Host("any", memory=memory)


def test_a_bus_has_its_programs_name_when_it_is_given_none(tmp_path):
    app = tmp_path / "my app.v2.py"
    app.write_text("import isthmus\nwith isthmus.Host() as host:\n    print(host.name)\n")
    done = subprocess.run([sys.executable, app], capture_output=True, text=True, timeout=20)
    assert done.stdout == "my-app.v2\n", done.stderr


def test_stop_lets_the_call_that_runs_finish_and_refuses_what_has_not_begun(name, until):
    begun, hold = threading.Event(), threading.Event()

    @isthmus.export(name=f"hold-{name}")
    def wait_for_it():
        begun.set()
        hold.wait()
        return "finished"

    outcomes = []

    def call(bus):
        try:
            outcomes.append(bus.call(f"hold-{name}"))
        except isthmus.PeerLost as error:
            outcomes.append(str(error))

    with isthmus.Host(name) as host, isthmus.connect(name) as bus:
        callers = [threading.Thread(target=call, args=[bus]) for _ in range(5)]
        for caller in callers:
            caller.start()
        begun.wait()
        until(lambda: bus.stats()["self"]["calls"] == 5)
        stopper = threading.Thread(target=host.stop)
        stopper.start()
        time.sleep(0.05)
        hold.set()
        stopper.join()
        for caller in callers:
            caller.join()
    assert outcomes.count("finished") == 1
    assert len(outcomes) == 5
    assert all("before it began" in outcome or outcome == "finished" for outcome in outcomes)


def test_an_export_may_stop_its_own_host(name):
    host = isthmus.Host(name)
    isthmus.export(name=f"stop-{name}")(host.stop)
    host.start()
    with isthmus.connect(name) as bus:
        assert bus.call(f"stop-{name}") is None
        host.wait()
    assert not host.is_open


SERVING = """
import sys, threading, time, isthmus
@isthmus.export
def nap(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"
"""


@pytest.fixture
def alone(tmp_path, name):
    """`python -m isthmus serve` as a person starts it, without a program that is told of it."""
    app = tmp_path / "app.py"
    app.write_text(textwrap.dedent(SERVING))
    process = subprocess.Popen([sys.executable, "-m", "isthmus", "serve", str(app), "--bus", name])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_call_that_runs_finish(until, alone, name, number):
    with isthmus.connect(name, wait=20) as bus:
        results = []
        caller = threading.Thread(target=lambda: results.append(bus.call("nap", 0.5)))
        caller.start()
        until(lambda: bus.stats()["host"]["gil_takes"] > 0)
        time.sleep(0.1)
        alone.send_signal(number)
        assert alone.wait(20) == 0
        caller.join()
        assert results == ["done"]
        with pytest.raises(isthmus.PeerLost):
            bus.call("nap", 0)


def test_a_second_signal_ends_the_host_at_once(until, alone, name, sockets):
    with isthmus.connect(name, wait=20) as bus:
        failures = []

        def call():
            try:
                bus.call("nap", 30)
            except isthmus.PeerLost as error:
                failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: bus.stats()["host"]["gil_takes"] > 0)
        alone.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert alone.poll() is None
        alone.send_signal(signal.SIGINT)
        assert alone.wait(20) == 128 + signal.SIGINT
        caller.join(20)
        assert len(failures) == 1
    assert not (sockets / f"{name}.sock").exists()


def test_a_second_signal_leaves_no_socket_behind_whatever_the_first_one_is_at(name, sockets):
    for i in range(100):
        host = isthmus.Host(name)
        host.start()
        stopping = threading.Thread(target=host.stop)
        stopping.start()
        time.sleep(i * 20e-6)
        host._abandon()  # what the handler does before it ends the process
        assert not (sockets / f"{name}.sock").exists()
        stopping.join()


def test_sigint_is_for_the_program_that_started_the_host(serve, name):
    """The terminal sends it to both, and that program may want to make some calls yet."""
    served = serve(SERVING).ready()
    with isthmus.connect(name) as bus:
        served.process.send_signal(signal.SIGINT)
        assert bus.call("nap", 0.01) == "done"
    assert served.end() == 0


def test_serve_returns_to_its_program(run, name, sockets):
    source = """
import isthmus, os, signal, sys, threading
before = signal.getsignal(signal.SIGINT)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
isthmus.serve(sys.argv[1])
assert signal.getsignal(signal.SIGINT) is before
print("returned", os.listdir(sys.argv[2]))
"""
    done = run(source, name, str(sockets))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("returned")
    assert name not in done.stdout


@pytest.mark.parametrize(
    "ending", ["", "sys.exit(0)", "raise SystemExit", "del host", "host = None; import gc; gc.collect()"]
)
def test_a_program_that_never_stops_its_host_ends_all_the_same(run, name, sockets, ending):
    source = """
import sys, isthmus
host = isthmus.Host(sys.argv[1])
host.start()
bus = isthmus.connect(sys.argv[1])
"""
    done = run(source + ending, name)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (sockets / f"{name}.sock").exists()


def test_a_program_that_fails_ends_with_its_own_error(run, name, sockets):
    done = run("import sys, isthmus\nisthmus.Host(sys.argv[1]).start()\n1 / 0", name)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert not (sockets / f"{name}.sock").exists()


def test_a_coroutine_whose_caller_is_gone_is_not_begun(serve, name, run, until):
    served = serve("""
        import isthmus

        began = []

        @isthmus.export
        def linger():
            call = isthmus.current()
            print("began", flush=True)
            while not call.cancelled:
                pass
            async def late():
                began.append(1)
            return late()

        @isthmus.export
        def how_many():
            return len(began)
    """).ready()
    program = "import sys, isthmus; isthmus.connect(sys.argv[1]).call('linger')"
    caller = subprocess.Popen([sys.executable, "-c", program, name])
    assert served.process.stdout.readline() == "began\n"
    caller.kill()
    caller.wait()
    with isthmus.connect(name) as bus:
        assert bus.call("how_many", timeout=20) == 0
    assert served.end() == 0
    assert "never awaited" not in served.stderr()


def test_a_program_that_is_interrupted_while_its_host_starts_ends(run, name, sockets):
    done = run(
        """
        import sys, threading
        import isthmus
        from isthmus import peer

        class Interrupted(threading.Event):
            def wait(self, timeout=None):
                raise KeyboardInterrupt

        made = peer.Peer.__init__

        def make(self, *args, **kwargs):
            made(self, *args, **kwargs)
            self._joined = Interrupted()

        peer.Peer.__init__ = make
        try:
            isthmus.Host(sys.argv[1]).start()
        except KeyboardInterrupt:
            print("interrupted")
        """,
        name,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert not (sockets / f"{name}.sock").exists()


def test_hosts_and_callers_come_and_go_in_every_order(until, name):
    def host_first(host, bus):
        host.stop()
        bus.close()

    def caller_first(host, bus):
        bus.close()
        host.stop()

    def both_at_once(host, bus):
        other = threading.Thread(target=bus.close)
        other.start()
        host.stop()
        other.join()

    def in_mid_call(host, bus):
        def call():
            try:
                while True:
                    bus.call("nine")
            except isthmus.PeerLost:
                pass

        caller = threading.Thread(target=call)
        caller.start()
        both_at_once(host, bus)
        caller.join()

    for turn in range(100):
        for end in (host_first, caller_first, both_at_once, in_mid_call):
            host = isthmus.Host(name, memory="1MiB")
            host.start()
            bus = isthmus.connect(name)
            assert bus.call("nine") == 9
            end(host, bus)
        if turn == 10:
            time.sleep(0.6)  # what watches a peer's pulse goes within a quarter of a second
            descriptors, tasks = (len(os.listdir(f"/proc/self/{each}")) for each in ("fd", "task"))
    assert dispatchers() == []
    del host, bus
    gc.collect()
    until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    until(lambda: len(os.listdir("/proc/self/task")) <= tasks)


def test_a_fork_leaves_the_bus_to_the_parent(run, name):
    source = """
import os, sys, isthmus, numpy as np, warnings, gc
warnings.simplefilter("ignore")
isthmus.export(name="same")(lambda x: x)
host = isthmus.Host(sys.argv[1])
host.start()
bus = isthmus.connect(sys.argv[1])
kept = bus.call("same", np.arange(100_000.0))
child = os.fork()
if child == 0:
    try:
        bus.call("same", 1)
    except isthmus.PeerLost as error:
        assert "was joined before this process was forked" in str(error)
    else:
        os._exit(2)
    try:
        isthmus.empty(3)
    except isthmus.PeerLost:
        pass
    else:
        os._exit(3)
    assert kept.sum() == 4999950000
    again = isthmus.connect(sys.argv[1])
    assert again.call("same", 5) == 5
    again.close()
    del kept
    host.stop(), bus.close()
    del host, bus
    gc.collect()
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert kept.sum() == 4999950000
assert bus.call("same", 5) == 5
assert os.path.exists(os.path.join(os.environ["XDG_RUNTIME_DIR"], "isthmus", sys.argv[1] + ".sock"))
for _ in range(20):
    assert bus.call("same", np.ones(100_000)).sum() == 100_000
assert kept.sum() == 4999950000
bus.close()
host.stop()
print("fine")
"""
    done = run(source, name)
    assert done.stdout == "fine\n", done.stderr


def test_a_child_that_an_export_forks_can_not_answer_in_its_parents_place(serve, name):
    serve("""
        import os, warnings, isthmus
        warnings.simplefilter("ignore")

        @isthmus.export
        def fork():
            child = os.fork()
            if child == 0:
                return "from the child"
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
    """).ready()
    with isthmus.connect(name) as bus:
        assert [bus.call("fork") for _ in range(5)] == [1] * 5
        assert bus.stats()["host"]["replies"] == 5


if sys.version_info >= (3, 12):

    def test_a_sub_interpreter_with_a_gil_of_its_own_hosts_and_calls(run, name):
        source = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import isthmus
isthmus.export(name="nine")(lambda x: [9, x])
with isthmus.Host({name!r} + {suffix!r}) as host, isthmus.connect({name!r} + {suffix!r}) as bus:
    for i in range(100):
        assert bus.call("nine", "x") == [9, "x"]
        assert bus.call("nine", bytes(100000))[1] == bytes(100000)
'''
import isthmus, threading
isthmus.export(name="main")(lambda: 1)
failures = []
def one(suffix):
    interpreter = interpreters.create()
    try:
        failure = interpreters.run_string(interpreter, code.format(name=sys.argv[1], suffix=suffix))
        if failure is not None:
            failures.append(failure)
    except Exception as failure:
        failures.append(failure)
    interpreters.destroy(interpreter)
threads = [threading.Thread(target=one, args=[suffix]) for suffix in ("-a", "-b")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("fine" if not failures else failures)
"""
        done = run(source, name)
        assert done.stdout == "fine\n", done.stderr
