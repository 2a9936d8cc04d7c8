"""Every test talks to a real bus, in a directory of sockets of its own that is empty afterwards."""

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus

PATIENCE = 20

# Free-threaded Pythons: the libraries have no wheels for them.
collect_ignore = [] if importlib.util.find_spec("pyarrow") else ["test_tables.py"]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(sockets: Path) -> Iterator[None]:
    yield
    assert [path.name for path in sockets.glob("*")] == []


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A bus that nobody has served before."""
    name.count += 1
    return f"test-{os.getpid()}-{name.count}"


name.count = 0


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of its own, which must end by itself."""

    def run(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    return run


class Served:
    """`python -m isthmus serve` of a source text, in a process of its own."""

    def __init__(
        self, folder: Path, name: str, source: str, *options: str, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.app = folder / "app.py"
        self.app.write_text(textwrap.dedent(source))
        self.line, theirs = socket.socketpair()
        command = [sys.executable, "-m", "isthmus", "serve", str(self.app), "--bus", name]
        command += ["--lifeline", str(theirs.fileno()), *options]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        theirs.close()

    def answer(self) -> dict:
        """What the host says about its start."""
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self.line], [], [], PATIENCE)
            assert readable, "the host said nothing"
            more = self.line.recv(65536)
            assert more, f"the host ended: {self.process.stderr.read()}"
            line += more
        return json.loads(line)

    def ready(self) -> "Served":
        assert self.answer() == {"ready": True}
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def stderr(self) -> str:
        self.wait()
        return self.process.stderr.read()

    def close(self) -> None:
        self.line.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="session")
def served_type() -> type[Served]:
    return Served


@pytest.fixture
def serve(tmp_path: Path, name: str) -> Iterator[Callable[..., Served]]:
    """Serves a source text under `name`."""
    served = []

    def serve(source: str, *options: str, **kwargs: object) -> Served:
        served.append(Served(tmp_path, name, source, *options, **kwargs))
        return served[-1]

    yield serve
    for one in served:
        killed = one.process.poll() is None and one.end() not in (0, -signal.SIGTERM)
        one.close()
        assert not killed, "the host did not end in good order"


ECHO = """
    import isthmus

    @isthmus.export
    def echo(*values, **named):
        return named or (values[0] if len(values) == 1 else list(values))

    @isthmus.export
    def see(value):
        kind = type(value)
        return f"{kind.__module__}.{kind.__qualname__} {value!r}"
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[isthmus.Bus]:
    """A bus whose host gives back what it gets, and tells what it saw."""
    named = f"echo-{os.getpid()}-{request.module.__name__.rsplit('.', 1)[-1]}"
    served = Served(tmp_path_factory.mktemp("echo"), named, ECHO).ready()
    with isthmus.connect(named) as bus:
        yield bus
    assert served.end() == 0
    served.close()


@pytest.fixture
def connect(name: str) -> Iterator[Callable[..., isthmus.Bus]]:
    """Connects to the bus `name`."""
    buses = []

    def connect(**options: object) -> isthmus.Bus:
        buses.append(isthmus.connect(name, **options))
        return buses[-1]

    yield connect
    for bus in buses:
        bus.close()


# --- workers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def app() -> str:
    """What workers serve."""
    return Path(__file__).parent.with_name("workers_app.py").read_text()


KINDS = ["process"]
if sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    KINDS.append("interpreter")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of worker that has a GIL of its own here."""
    return request.param


class Gate:
    """Holds calls of `hold` back."""

    def __init__(self, path: Path, until: Callable[..., object]) -> None:
        self.path = path
        self._until = until

    def holder(self) -> int:
        """The process of the call that has come to it."""
        begun = self.path.with_suffix(".begun")
        return int(self._until(lambda: begun.exists() and begun.read_text()))

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(tmp_path: Path, until: Callable[..., object]) -> Callable[..., Gate]:
    def gate(name: str = "gate") -> Gate:
        return Gate(tmp_path / name, until)

    return gate


@pytest.fixture
def workers_of() -> Callable[[isthmus.Bus], set[int]]:
    """The processes of the workers that are on a bus."""
    return lambda bus: {peer["pid"] for peer in bus.peers() if peer["worker"] is not None}


@pytest.fixture
def answers_of(until: Callable[..., object]) -> Callable[[isthmus.Bus, str, int], set[object]]:
    """What workers answer: calls are made at the same time until there are that many different answers."""

    def answers_of(bus: isthmus.Bus, export: str, count: int) -> set[object]:
        seen = set()

        def find() -> bool:
            seen.update(call.result() for call in [bus.submit(export) for _ in range(16 * count)])
            return len(seen) >= count

        until(find)
        return seen

    return answers_of


@pytest.fixture
def pids_of(answers_of: Callable[..., set[int]]) -> Callable[[isthmus.Bus, int], set[int]]:
    """The processes of so many workers."""
    return lambda bus, count: answers_of(bus, "pid", count)


@pytest.fixture
def successor_of(until: Callable[..., int]) -> Callable[[isthmus.Bus, int], int]:
    """The process that answers once a killed one, the only one that served, has been replaced."""

    def successor_of(bus: isthmus.Bus, victim: int) -> int:
        def answered() -> int | None:
            try:
                pid = bus.call("pid")
            except isthmus.PeerLost:
                return None
            return pid if pid != victim else None

        return until(answered)

    return successor_of
