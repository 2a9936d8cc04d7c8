"""Python as a caller: blocking calls from any thread."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import isthmus

NAPS = """
    import asyncio, time
    import isthmus

    done = []

    @isthmus.export
    def nap(seconds, word=None):
        time.sleep(seconds)
        done.append(word)
        return word

    @isthmus.export
    async def nap_on_loop(seconds):
        await asyncio.sleep(seconds)

    @isthmus.export
    def log():
        return done
"""


@pytest.fixture
def bus(serve, name):
    serve(NAPS).ready()
    with isthmus.connect(name) as bus:
        yield bus


def test_a_call_that_takes_too_long_is_a_timeout(bus):
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"the call of 'nap' took longer than 0\.05") as caught:
        bus.call("nap", 1, timeout=0.05)
    assert time.monotonic() - started > 0.04
    assert isinstance(caught.value, isthmus.TimeoutError)
    assert caught.value.code == "TIMEOUT"
    assert bus.call("nap", 0, "after") == "after"


def test_what_waited_too_long_for_its_turn_is_not_begun(bus):
    first = bus.submit("nap", 1, "first")
    with pytest.raises(TimeoutError):
        bus.call("nap", 0, "late", timeout=0.1)
    first.result(20)
    assert bus.call("nap", 0, "last") == "last"
    assert bus.call("log") == ["first", "last"]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", object()])
def test_a_timeout_is_a_number_of_seconds(bus, timeout):
    with pytest.raises((ValueError, TypeError)):
        bus.call("nap", 0, timeout=timeout)


@pytest.mark.parametrize("timeout", [None, 60, 1e300, float("inf"), True])
def test_or_none_and_may_be_long(bus, timeout):
    assert bus.call("nap", 0, "x", timeout=timeout) == "x"


def test_the_gil_is_free_while_a_call_waits(bus):
    caller = threading.Thread(target=bus.call, args=["nap", 0.3])
    caller.start()
    turns = 0
    while caller.is_alive():
        turns += 1
        time.sleep(0.005)
    assert turns > 3


def test_many_threads_share_one_bus(bus):
    failures = []

    def work(number):
        failures.extend(i for i in range(100) if bus.call("nap", 0, [number, i]) != [number, i])

    threads = [threading.Thread(target=work, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_closing_ends_the_calls_in_flight(bus):
    failures = []

    def call():
        try:
            bus.call("nap_on_loop", 20)
        except isthmus.PeerLost as error:
            failures.append(error.code)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.1)
    bus.close()
    caller.join(20)
    assert failures == ["PEER_LOST"]
    assert not bus.is_open
    bus.close()
    with pytest.raises(isthmus.PeerLost, match="is closed: connect to it again"):
        bus.call("nap", 0)
    with pytest.raises(isthmus.PeerLost, match="is closed"):
        bus.stats()


def test_a_call_that_is_lost_tells_whom_and_how(serve, name, until):
    served = serve(NAPS).ready()
    lost = rf"app\.py \(pid {served.process.pid}\) (has died|is gone, and the bus with it)$"
    with isthmus.connect(name) as bus:
        calls = [bus.submit("nap", 30), bus.submit("nap", 30)]
        until(lambda: bus.stats()["self"]["calls"] == 2)
        served.end(signal.SIGKILL)
        for call in calls:
            with pytest.raises(isthmus.PeerLost, match=f"^the call of 'nap' was lost: {lost}"):
                call.result(20)
    # What a killed host leaves on disk the next one of its name takes over.
    with isthmus.Host(name):
        pass


def test_a_killed_host_ends_the_calls_in_flight(serve, name):
    served = serve(NAPS).ready()
    with isthmus.connect(name) as bus:
        failures = []

        def call():
            try:
                bus.call("nap", 30)
            except isthmus.PeerLost as error:
                failures.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(0.2)
        served.end(signal.SIGKILL)
        for caller in callers:
            caller.join(20)
        assert len(failures) == 4
        with pytest.raises(isthmus.PeerLost):
            bus.call("nap", 0)
    # What a killed host leaves on disk the next one of its name takes over.
    with isthmus.Host(name):
        pass


def test_ctrl_c_ends_the_wait_of_the_main_thread(serve, name, until):
    serve(NAPS).ready()
    source = f"""
import isthmus, time
bus = isthmus.connect({name!r})
try:
    bus.call("nap_on_loop", 20)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(bus.is_open)
"""
    with (
        isthmus.connect(name) as watch,
        subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process,
    ):
        until(lambda: watch.stats()["host"]["gil_takes"] > 0)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\nTrue\n"
        assert process.wait(20) == 0


def test_a_caller_that_is_killed_harms_nobody_and_gives_its_memory_back(serve, name, until):
    serve(
        """
        import isthmus, time

        kept = []

        @isthmus.export
        def work(x, seconds):
            time.sleep(seconds)
            kept[:] = [x]
            return x

        @isthmus.export
        def total():
            return [float(x.sum()) for x in kept]
    """,
        "--memory",
        "64MiB",
    ).ready()
    source = f"""
import isthmus, numpy as np, sys, threading, time
bus = isthmus.connect({name!r})
kept = [bus.call("work", np.ones(500_000), 0) for _ in range(6)]
for _ in range(4):
    threading.Thread(target=bus.call, args=["work", np.ones(500_000), 0.05]).start()
print("ready", flush=True)
time.sleep(30)
"""
    with isthmus.connect(name) as bus:
        for _ in range(8):
            with subprocess.Popen(
                [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout.readline() == "ready\n"
                process.kill()
            assert bus.call("total") == [500_000.0]
        until(lambda: bus.stats()["host"]["links_lost"] == 8)


def test_the_peers_place_is_free_again_after_it_left(serve, name):
    serve(NAPS).ready()
    for _ in range(150):  # more than a bus has places
        with isthmus.connect(name) as bus:
            assert bus.call("nap", 0, os.getpid()) == os.getpid()


def test_the_65th_peer_is_refused(serve, name):
    serve(NAPS).ready()
    peers = []
    try:
        peers.extend(isthmus.connect(name) for _ in range(63))
        with pytest.raises(isthmus.ConnectError, match="has its 64 peers already"):
            isthmus.connect(name)
        assert peers[-1].call("nap", 0, "last") == "last"
    finally:
        for peer in peers:
            peer.close()


def test_stats_may_be_asked_for_while_the_garbage_collector_drops_remote_objects(name, run):
    done = run(
        """
        import gc, sys
        import isthmus

        class Thing:
            pass

        isthmus.export(name="thing")(Thing)
        with isthmus.Host(sys.argv[1]), isthmus.connect(sys.argv[1]) as bus:
            for _ in range(300):
                gc.disable()
                ring = Thing()
                ring.ring, ring.thing = ring, bus.call("thing")
                del ring
                gc.set_threshold(1, 1, 1)
                gc.enable()
                bus.stats()
        """,
        name,
    )
    assert done.returncode == 0, done.stderr


def test_a_daemon_thread_that_waits_for_an_answer_does_no_harm_at_the_end(bus, run):
    for _ in range(5):
        done = run(
            """
            import contextlib, sys, threading
            import isthmus

            def call():
                while True:
                    with contextlib.suppress(isthmus.Error):
                        bus.call("nap_on_loop", 600)

            bus = isthmus.connect(sys.argv[1])
            for _ in range(8):
                threading.Thread(target=call, daemon=True).start()
            bus.call("nap_on_loop", 0)
            """,
            bus.name,
        )
        assert done.returncode == 0, done.stderr
