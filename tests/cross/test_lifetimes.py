"""What lifetimes.test.mjs plays, with Python here: memory is used again when nobody looks, and not before."""

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import isthmus

SIZES = [100, 50_000]  # in a block among others, and in one of its own
pytestmark = pytest.mark.parametrize("size", SIZES)


def filled(size, value):
    array = isthmus.empty(size)
    array[:] = value
    return array


@pytest.fixture
def churn(bus, size):
    """What is free is used anew, on both sides."""

    def churn():
        taken = [filled(size, -1.0) for _ in range(20)]
        taken += [bus.call("make", size, -1) for _ in range(20)]
        assert all((each == -1).all() for each in taken)

    return churn


@pytest.fixture(autouse=True)
def nothing_is_left(bus, until):
    yield

    def nothing():
        gc.collect()
        bus.call("drop")
        return bus.stats()["memory"]["leased"] == 0

    until(nothing)


@pytest.fixture
def third(other):
    """A process in JavaScript on the same bus; what it offers begins with `third.`"""
    player = other.third("third.")
    yield player
    player.kill()
    player.wait()


def test_what_they_keep_stays_as_it_is_when_it_is_dropped_here(bus, churn, size):
    bus.call("keep", filled(size, 1))
    gc.collect()
    churn()
    assert bus.call("kept_is", 1) == [size, True]
    bus.call("keep_part", filled(size, 2))
    churn()
    assert bus.call("kept_is", 2) == [15, True]


def test_a_view_of_a_view_of_what_they_made_and_dropped_keeps_it_here(bus, churn, size):
    part = bus.call("make", size, 3)[10:][5:20]
    bus.call("drop")
    gc.collect()
    churn()
    assert (part == 3).all()


def test_what_is_taken_of_a_view_by_other_libraries_means_keeps_it_too(bus, churn, size):
    array = bus.call("make", size, 3)
    parts = [memoryview(array)[1:], np.from_dlpack(array)[1:], np.asarray(array).reshape(2, -1).T[1:]]
    del array
    gc.collect()
    churn()
    assert all((np.asarray(part) == 3).all() for part in parts)


def test_what_they_sent_on_stays_with_a_third_when_everybody_else_has_let_go(bus, churn, third, size):
    bus.call("apply", bus.call("third.keeper"), filled(size, 5))
    bus.call("drop")
    gc.collect()
    churn()
    assert bus.call("third.kept_is", 5) == [size, True]
    back = bus.call("third.take")
    third.stdin.close()
    third.wait()
    churn()
    assert (back == 5).all()


def test_an_array_outlives_its_maker_who_was_killed_and_a_killed_holder_keeps_none(bus, churn, third, size):
    made = bus.call("third.make", size, 6)
    bus.call("keep", bus.call("third.make", size, 7))
    bus.call("third.keep", filled(size, 8))
    third.kill()
    third.wait()
    with pytest.raises((isthmus.PeerLost, isthmus.NotExported)):
        bus.call("third.take")
    churn()
    assert (made == 6).all()
    assert bus.call("kept_is", 7) == [size, True]


def test_an_array_outlives_the_python_caller_that_lent_it_and_was_killed(bus, other, churn, size):
    program = f"""
        import sys, isthmus
        bus = isthmus.connect({other.name!r})
        held = [isthmus.empty({size}), bus.call("make", {size}, 1)]
        held[0][:] = 9
        bus.call("keep", held[0])
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    churn()
    assert bus.call("kept_is", 9) == [size, True]


def test_arrays_of_a_killed_peer_stay_as_they_are(doomed, size):
    made = doomed.bus.call("make", size, 4)
    own = filled(size, 5)
    doomed.kill()
    with pytest.raises((isthmus.PeerLost, isthmus.NotExported)):
        doomed.bus.call("drop")
    for _ in range(20):
        filled(size, -1)
    assert (made == 4).all()
    assert (own == 5).all()
