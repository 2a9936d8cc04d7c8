"""The caller here is Python; what it meets is peer.py or peer.mjs, in a process of their own."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import isthmus

here = Path(__file__).parent
sys.path.insert(0, str(here))  # for what the hosts and the tests share
PATIENCE = 20


def private_bytes(pid):
    """Memory without the pages of the bus, which both sides see."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class Other:
    """The other side: processes that are ended with it, and this process's place on their bus."""

    count = 0

    def __init__(self, language, node):
        Other.count += 1
        self.language = language
        self.node = node
        self.name = f"other-{os.getpid()}-{Other.count}"
        self.processes = []
        app = here / ("peer.py" if language == "python" else "nobody.py")
        self.start([sys.executable, "-m", "isthmus", "serve", app, "--bus", self.name])
        self.bus = self.join()
        if language == "javascript":
            self.third("")
        self.pid = self.processes[-1].pid

    def start(self, command, **options):
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, **options)
        self.processes.append(process)
        return process

    def third(self, prefix):
        """Another process in JavaScript on this bus: what it offers has this prefix."""
        player = self.start(
            [self.node, "--expose-gc", here / "peer.mjs", self.name, prefix], stdout=subprocess.PIPE
        )
        assert player.stdout.readline() == b"ready\n"
        return player

    def join(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.processes[0].poll() is None:
            with contextlib.suppress(isthmus.ConnectError):
                return isthmus.connect(self.name)
            time.sleep(0.01)
        raise AssertionError("there is no bus")

    def used_bytes(self):
        """Without what V8's heap has free: it grows by rules of its own."""
        return self.bus.call("used") if self.language == "javascript" else private_bytes(self.pid)

    def events(self, *last):
        """What happened over there, once it has come to all of `last`."""
        found = []
        deadline = time.monotonic() + PATIENCE
        while any(found.count(each) < last.count(each) for each in last):
            found += self.bus.call("take_events")
            assert time.monotonic() < deadline, f"not {last}, but {found}"
        return found

    def kill(self):
        self.processes[-1].kill()
        self.processes[-1].wait()

    def part(self):
        self.bus.close()
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(PATIENCE)
            process.stdin.close()
            if process.stdout:
                process.stdout.close()


@pytest.fixture(scope="module", params=["python", "javascript"])
def other(request, node):
    other = Other(request.param, node)
    yield other
    other.part()


@pytest.fixture
def doomed(other):
    """Another one like it, to be killed."""
    doomed = Other(other.language, other.node)
    yield doomed
    doomed.part()


@pytest.fixture
def bus(other):
    other.bus.call("take_events")
    return other.bus
