"""Services that share a bus, and `isthmus ls`, which tells who is there."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import isthmus
from isthmus import _isthmus


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


def test_several_services_share_a_bus_and_come_and_go(serve, join, app, connect, until):
    serve(app).ready()
    caller = connect()
    joined = join(OTHER, "--workers", "2").ready()
    assert until(lambda: _called(caller, "other")) == "other"
    assert caller.call("pid") > 0
    assert joined.end() == 0
    with pytest.raises(isthmus.PeerLost, match="'other' was not sent: nobody serves it at the moment"):
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


def test_connect_waits_for_a_bus_if_asked(serve, app, name):
    with pytest.raises(isthmus.ConnectError):
        isthmus.connect(name)
    with pytest.raises(isthmus.ConnectError):
        isthmus.connect(name, wait=0.05)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(isthmus.connect, name, wait=60)
        serve(app).ready()
        with waiting.result() as caller:
            assert caller.call("pid") > 0


@pytest.mark.parametrize(
    ("wait", "error"),
    [
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("5", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_what_is_no_time_to_wait_for_is_told(serve, app, name, wait, error):
    serve(app).ready()
    with pytest.raises(error, match=f"wait is a number of seconds from 0 on, and not {wait!r}"):
        isthmus.connect(name, wait=wait)


def ls(*arguments):
    command = [sys.executable, "-m", "isthmus", "ls", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_ls_shows_services_workers_and_callers(serve, join, app, connect, name):
    serve(app, "--workers", "2").ready()
    join(OTHER).ready()
    caller = connect()
    caller.call("pid")
    shown = ls(name)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == name
    exports = "call_back, count, hold, hold_on_loop, later, pid, total, who"
    assert sum("app.py" in line and f"0 calls: {exports}" in line for line in lines) == 2
    assert sum(line.endswith("0 calls: other") for line in lines) == 1
    assert any(f"pid {os.getpid()}" in line for line in lines)
    assert name in ls().stdout


def test_ls_of_a_bus_without_services_tells_how_many_are_there(name, connect):
    broker = _isthmus.Broker(name, 1 << 24, 0, 0, True)  # open though nobody serves, as a pipeline's is
    try:
        assert ls(name).stdout == f"{name} (no services; 0 peers)\n"
        one, two = connect(), connect()
        assert ls(name).stdout.splitlines()[0] == f"{name} (no services; 2 peers)"
        one.close()
        assert ls(name).stdout.splitlines()[0] == f"{name} (no services; 1 peer)"
        two.close()
    finally:
        broker.close()


def test_ls_of_a_bus_that_is_not_there_is_told_by_its_exit_code(name):
    shown = ls(name)
    assert shown.returncode == 3
    assert f"no bus named '{name}'" in shown.stderr
