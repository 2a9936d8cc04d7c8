"""What one process has lent to another is let go when nobody holds it, however its holder ends."""

import gc
import os
import subprocess
import sys
import textwrap
import weakref

import pytest
from conftest import private_bytes

import isthmus

MANY = 100_000
BATCH = 1000


def callbacks(bus):
    """Lent for the time of a call, of which one in ten keeps all others waiting for its callback."""
    applies = ["apply", *["apply_async"] * 9]
    futures = [bus.submit(applies[i % 10], lambda x, i=i: x + i, 1) for i in range(BATCH)]
    assert futures[-1].result() == BATCH
    for future in futures:
        future.result()


def functions(bus):
    """Of the other side, held here for a moment."""
    assert bus.call("adders", BATCH)[-1](1) == BATCH


@pytest.mark.timeout(300)
@pytest.mark.parametrize("batch", [callbacks, functions])
def test_100_000_that_are_made_and_dropped_leave_both_processes_as_they_were(bus, other, until, batch):
    def figures():
        gc.collect()
        until(lambda: bus.call("living") == 0)
        return private_bytes(os.getpid()), other.used_bytes()

    def play():
        for _ in range(MANY // BATCH):
            batch(bus)
        return figures()

    # How high they pile up for a moment differs; 100 bytes that stay of each would be 10 MB more each time.
    for first, second, third, fourth in zip(*(play() for _ in range(4)), strict=True):
        assert min(third, fourth) - max(first, second) < 8 << 20


def test_100_000_callbacks_of_a_killed_holder_are_collected_here(doomed, until):
    living = weakref.WeakSet()
    for i in range(MANY // BATCH):
        lent = [lambda x, n=i * BATCH + k: x + n for k in range(BATCH)]
        living.update(lent)
        doomed.bus.call("keep", lent)
    del lent
    gc.collect()
    assert len(living) == MANY
    doomed.kill()
    until(lambda: gc.collect() >= 0 and not living)


def test_100_000_functions_of_a_killed_holder_are_collected_over_there(bus, other, until):
    program = """
        import sys, isthmus
        bus = isthmus.connect(sys.argv[1])
        held = [bus.call("adders", 1000) for _ in range(100)]
        print(held[-1][-1](1), flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), other.name]
    figures = []
    for _ in range(3):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"1000\n"
            assert bus.call("living") == MANY
            holder.kill()
        until(lambda: bus.call("living") == 0)
        figures.append(other.used_bytes())
    assert figures[2] - figures[1] < 8 << 20


def test_functions_of_a_killed_owner_are_lost_and_let_go(doomed):
    theirs = [each for _ in range(10) for each in doomed.bus.call("adders", BATCH)]
    doomed.kill()
    with pytest.raises(isthmus.PeerLost):
        theirs[0](1)
    gone = weakref.ref(theirs[-1])
    theirs.clear()
    gc.collect()
    assert gone() is None
