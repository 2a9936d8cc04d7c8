"""Peers of one bus, and processes that do with queues what they are told."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus

PATIENCE = 20


class Child:
    """A process of its own that does what it is told."""

    def __init__(self, name: str, prefetch: int = 1) -> None:
        program = Path(__file__).parents[2] / "queue_peer.py"
        command = [sys.executable, str(program), name, str(prefetch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.answer() == "there"

    def tell(self, *words: object) -> None:
        self.process.stdin.write(json.dumps(words) + "\n")

    def answer(self) -> object:
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def do(self, *words: object) -> object:
        self.tell(*words)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def child(name: str) -> Iterator[Callable[..., Child]]:
    children = []

    def child(prefetch: int = 1) -> Child:
        children.append(Child(name, prefetch))
        return children[-1]

    yield child
    for each in children:
        with contextlib.suppress(BrokenPipeError):
            each.close()


@pytest.fixture
def host(name: str) -> Iterator[isthmus.Host]:
    with isthmus.Host(name) as host:
        yield host


@pytest.fixture
def bus(host: isthmus.Host) -> Iterator[isthmus.Bus]:
    with isthmus.connect(host.name) as bus:
        yield bus


@pytest.fixture
def other(host: isthmus.Host) -> Iterator[isthmus.Bus]:
    with isthmus.connect(host.name) as bus:
        yield bus
