"""Exports on Ray, by the executor of isthmus.ray."""

import os
import signal

import pytest

import isthmus

pytest.importorskip("ray")

LARGE = 100_000  # numbers; 800 kB


@pytest.fixture(scope="module")
def bus(processes_type, serve):
    processes = processes_type()
    try:
        with serve(processes, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0") as bus:
            yield bus
    finally:
        processes.end()


def large(value=1.0):
    array = isthmus.empty(LARGE)
    array[:] = value
    return array


def test_arrays_go_to_rays_workers_and_back_as_handles(bus):
    assert bus.call("pid") != bus.call("here")
    before = [bus.stats()[who]["bytes_copied"] for who in ("self", "host")]
    for value in range(8):
        result = bus.call("double", large(value))
        assert len(result) == LARGE
        assert (result == 2 * value).all()
    assert [bus.stats()[who]["bytes_copied"] for who in ("self", "host")] == before


def test_javascript_calls_them_with_arrays_in_bus_memory(bus, call_from_javascript):
    assert call_from_javascript(bus) == ["doubled\n", ""]


def test_batches_run_there_too(bus):
    calls = [bus.submit("totals", large(value)) for value in (1, 2)]
    assert [call.result(60) for call in calls] == [LARGE, 2 * LARGE]


def test_a_call_whose_worker_is_killed_goes_on_with_another(bus, until, folder):
    held = bus.submit("hold", str(folder), large())
    first = int(until(lambda: list(folder.iterdir()))[0].name)
    os.kill(first, signal.SIGKILL)
    until(lambda: len(list(folder.iterdir())) == 2)
    (folder / "open").touch()
    assert held.result(60) != first


def test_errors_there_are_as_clear_as_the_hosts(bus):
    with pytest.raises(isthmus.PythonError, match="LookupError: lost") as caught:
        bus.call("fail", "lost")
    assert "in fail" in caught.value.traceback
    with pytest.raises(isthmus.PythonError, match=r"result of 'unpicklable'.* can't be pickled"):
        bus.call("unpicklable")
    with pytest.raises(isthmus.PythonError, match="worker died"):
        bus.call("die")
    assert (bus.call("double", large()) == 2).all()


def test_a_call_that_is_cancelled_before_it_begins_never_does(bus, until, folder, tmp_path):
    never = tmp_path / "never"
    never.mkdir()
    holding = [bus.submit("hold", str(folder)) for _ in range(2)]
    until(lambda: len(list(folder.iterdir())) == 2)
    waiting = [bus.submit("hold", str(never)) for _ in range(4)]
    assert bus.call("here")
    for call in waiting:
        call.cancel()
    (folder / "open").touch()
    assert len({call.result(60) for call in holding}) == 2
    assert bus.call("pid")
    assert list(never.iterdir()) == []
