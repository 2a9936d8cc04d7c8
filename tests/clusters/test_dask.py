"""Exports on Dask: a real scheduler and two workers, on this machine and in another network namespace."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import isthmus

pytest.importorskip("distributed")

LARGE = 100_000  # numbers; 800 kB
WORKERS = 2


def start_dask(folder, processes, until, *, near=(), away=(), addresses=("127.0.0.1",) * 2, port=0, **env):
    """A scheduler and two workers, whose commands `away` goes before. Returns the scheduler, its address."""
    about = folder / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--no-show"]
    place = ["--host", addresses[0], "--port", str(port), "--scheduler-file", str(about)]
    scheduler = processes.start([*near, *dask, *place])
    until(about.exists)
    dask = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--nthreads", "1"]
    for number in range(WORKERS):
        place = ["--host", addresses[1], "--local-directory", str(folder), "--name", f"worker {number}"]
        processes.start([*away, *dask, *place, "--scheduler-file", str(about)], **env)
    return scheduler, json.loads(about.read_text())["address"]


class Cluster:
    """What `start_dask` starts, a host, and a bus."""

    def __init__(self, folder, processes, until, serve, *, near=(), **options):
        self.processes = processes
        self.scheduler, address = start_dask(folder, processes, until, near=near, **options)
        self.serving = serve(processes, *near, SCHEDULER=address)

    def __enter__(self):
        self.bus = self.serving.__enter__()
        return self

    def __exit__(self, *error):
        try:
            self.serving.__exit__(*error)
        finally:
            self.processes.end()


@pytest.fixture(scope="module")
def namespaces():
    """Two network namespaces that a virtual cable joins: what goes before a command, and their addresses."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    near, far = (f"isthmus-{os.getpid()}-{side}" for side in "ab")
    addresses = "10.213.79.1", "10.213.79.2"

    def ip(command):
        return subprocess.run(["ip", *command.split()], capture_output=True, text=True)

    added = ip(f"netns add {near}")
    if added.returncode != 0:
        pytest.skip(f"network namespaces can't be made here: {added.stderr.strip()}")
    try:
        for command in (
            f"netns add {far}",
            f"link add left netns {near} type veth peer name right netns {far}",
            f"-n {near} addr add {addresses[0]}/24 dev left",
            f"-n {far} addr add {addresses[1]}/24 dev right",
            *(f"-n {near} link set {device} up" for device in ("lo", "left")),
            *(f"-n {far} link set {device} up" for device in ("lo", "right")),
        ):
            done = ip(command)
            assert done.returncode == 0, f"ip {command}: {done.stderr}"
        enter = ["ip", "netns", "exec"]
        yield {"near": [*enter, near], "away": [*enter, far], "addresses": addresses}
    finally:
        ip(f"netns del {near}")
        ip(f"netns del {far}")


@pytest.fixture(scope="module")
def start(tmp_path_factory, processes_type, until, serve):
    def start(**where):
        return Cluster(tmp_path_factory.mktemp("dask"), processes_type(), until, serve, **where)

    return start


@pytest.fixture(scope="module", params=["on this machine", "across two network namespaces"])
def bus(request, start):
    where = {} if request.param == "on this machine" else request.getfixturevalue("namespaces")
    with start(**where) as cluster:
        yield cluster.bus


def large(value=1.0):
    array = isthmus.empty(LARGE)
    array[:] = value
    return array


def copied(bus):
    return [bus.stats()[who]["bytes_copied"] for who in ("self", "host")]


def begun(folder):
    return [int(path.name) for path in folder.iterdir() if path.name != "open"]


def test_arrays_go_to_dasks_workers_and_back_as_handles(bus):
    workers = {bus.call("pid") for _ in range(4)}
    assert bus.call("here") not in workers
    before = copied(bus)
    for value in range(8):
        result = bus.call("double", large(value))
        assert len(result) == LARGE
        assert (result == 2 * value).all()
    assert copied(bus) == before
    assert workers & {peer["pid"] for peer in bus.peers()}


def test_javascript_calls_them_with_arrays_in_bus_memory(bus, call_from_javascript):
    assert call_from_javascript(bus) == ["doubled\n", ""]


def test_batches_run_there_too(bus):
    calls = [bus.submit("totals", large(value)) for value in (1, 2)]
    assert [call.result(60) for call in calls] == [LARGE, 2 * LARGE]


def test_a_call_whose_worker_is_killed_goes_on_with_another(bus, until, folder):
    held = bus.submit("hold", str(folder), large())
    first = until(lambda: begun(folder))[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: len(begun(folder)) == 2)
    (folder / "open").touch()
    assert held.result(60) != first


def test_one_that_kills_every_worker_is_a_clear_error_and_others_go_on(bus):
    with pytest.raises(isthmus.PythonError, match="those workers died") as caught:
        bus.call("die")
    assert caught.value.type == "KilledWorker"
    assert (bus.call("double", large()) == 2).all()


def test_errors_there_are_as_clear_as_the_hosts(bus):
    with pytest.raises(isthmus.PythonError, match="LookupError: lost") as caught:
        bus.call("fail", "lost")
    assert "in fail" in caught.value.traceback
    with pytest.raises(isthmus.PythonError, match=r"result of 'unpicklable'.* can't be pickled"):
        bus.call("unpicklable")


def test_arrays_wait_for_the_end_of_the_call_and_no_longer(bus, until, folder):
    array = large()
    before = bus.stats()["memory"]["leased"]
    held = bus.submit("hold", str(folder), array)
    until(lambda: begun(folder))
    held.cancel()
    (folder / "open").touch()
    bus.call("double", array)
    until(lambda: bus.stats()["memory"]["leased"] == before)


def test_workers_that_can_not_join_the_bus_get_the_bytes(start, tmp_path):
    tmp_path.chmod(0o700)
    with start(XDG_RUNTIME_DIR=str(tmp_path)) as cluster:
        bus = cluster.bus
        assert bus.call("pid") != bus.call("here")
        before = copied(bus)
        for value in range(4):
            result = bus.call("double", large(value))
            assert (result == 2 * value).all()
        assert copied(bus) == [before[0], before[1] + 4 * 8 * LARGE]
        assert len(bus.peers()) == 2


def test_a_scheduler_that_is_gone_is_an_error_of_the_call(start, until, folder):
    with start() as cluster:
        held = cluster.bus.submit("hold", str(folder), large())
        until(lambda: begun(folder))
        cluster.scheduler.kill()
        with pytest.raises(isthmus.PythonError, match="'hold' was lost"):
            held.result(60)
        with pytest.raises(isthmus.PythonError, match=r"'pid' was lost|Client is closed"):
            cluster.bus.call("pid")
        (folder / "open").touch()
        assert cluster.bus.call("here")


def test_one_that_can_not_be_reached_is_an_error_of_the_call_until_it_can(
    tmp_path, processes_type, until, serve
):
    dask, host = processes_type(), processes_type()
    try:
        with socket.socket() as nobody:  # has the port, and does not listen
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            with serve(host, SCHEDULER=f"tcp://127.0.0.1:{port}") as bus:
                waiting = [bus.submit("double", large()) for _ in range(2)]
                assert bus.call("here")
                for call in waiting:
                    why = f"the executor of 'double' can't be had: .*127.0.0.1:{port}"
                    with pytest.raises(isthmus.PythonError, match=why) as caught:
                        call.result(60)
                    assert caught.value.type == "OSError"
                nobody.close()
                start_dask(tmp_path, dask, until, port=port)

                def worker():
                    with contextlib.suppress(isthmus.PythonError):
                        return bus.call("pid")

                assert until(worker) != bus.call("here")
                assert (bus.call("double", large()) == 2).all()
    finally:
        host.end()
        dask.end()
