"""Objects of a Python host in the hands of another Python, and of JavaScript."""

import gc
import subprocess
import sys
import textwrap

import pytest
from conftest import Other

import isthmus


@pytest.fixture(scope="module")
def host(node):
    other = Other("python", node)
    other.third("third.")
    yield other
    other.part()


@pytest.fixture
def bus(host):
    return host.bus


@pytest.fixture
def gone(bus):
    """Whether nobody holds an object of the host any more: neither this process nor the third one."""

    def gone():
        gc.collect()
        bus.call("third.drop")
        return bus.call("living") == 0

    return gone


@pytest.fixture(autouse=True)
def nothing_is_left(gone, until):
    until(gone)


def test_an_object_is_the_same_wherever_it_has_been(bus):
    box = bus.call("box", 5)
    assert bus.call("echo", box) is box
    assert bus.call("third.echo", box) is box
    assert bus.call("same", box, bus.call("third.echo", [box])[0]) is True
    assert bus.call("value_of", box) == 5
    assert bus.call("third.value_of", box) == 5


def test_attributes_calls_and_text_go_there(bus):
    box = bus.call("box", 5)
    assert box.value == 5
    assert box.get() == 5
    with pytest.raises(AttributeError, match="nothing"):
        box.nothing  # noqa: B018


def test_objects_that_are_dropped_are_collected_over_there(bus, gone, until):
    boxes = bus.call("boxes", 1000)
    assert boxes[999].value == 999
    assert bus.call("living") == 1000
    bus.call("third.echo", boxes)
    del boxes
    until(gone)


def test_objects_of_a_killed_holder_are_collected(bus, host, until):
    program = """
        import sys, isthmus
        bus = isthmus.connect(sys.argv[1])
        boxes = bus.call("boxes", 1000)
        print("holding", flush=True)
        sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), host.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"holding\n"
    assert bus.call("living") == 1000
    holder.kill()
    holder.communicate()
    until(lambda: bus.call("living") == 0)


def test_what_javascript_does_not_lend_is_an_error_there(bus):
    f = bus.call("third.adder", 1)
    assert f(1) == 2
    with pytest.raises(AttributeError):
        f.nothing()


def test_a_released_object_is_gone_here_and_there(bus, until):
    box = bus.call("box", 1)
    assert bus.call("living") == 1
    box.release()
    box.release()
    until(lambda: bus.call("living") == 0)
    with pytest.raises(isthmus.Error, match="released"):
        box.get()
    with pytest.raises(isthmus.Error, match="released"):
        bus.call("echo", box)


def test_objects_functions_and_streams_of_a_killed_host_are_lost(node):
    other = Other("python", node)
    box, add, stream = other.bus.call("box"), other.bus.call("adder", 1), other.bus.stream("ticks", 1_000_000)
    assert next(stream) == 0
    other.processes[0].kill()
    other.processes[0].wait()
    for use in (lambda: box.value, lambda: box.get(), lambda: add(1), lambda: list(stream)):
        with pytest.raises(isthmus.PeerLost):
            use()
    other.part()
