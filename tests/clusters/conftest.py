"""A host whose exports run on a cluster, in processes of their own, and a bus to call them over."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import isthmus

PATIENCE = 60


@pytest.fixture
def folder(tmp_path):
    """Where calls of `hold` tell that they have begun, and wait."""
    folder = tmp_path / "held"
    folder.mkdir()
    return folder


class Processes:
    """Programs, each with a process group of its own."""

    def __init__(self):
        self._all = []

    def start(self, command, **env):
        process = subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True)
        self._all.append(process)
        return process

    def end(self):
        """The last one, which uses the others, in good order."""
        self._all[-1].terminate()
        try:
            self._all[-1].wait(PATIENCE)
        finally:
            for process in self._all:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def serve():
    """Serves `app.py` with an environment, and calls it."""
    served = 0

    @contextlib.contextmanager
    def serve(processes, *before, **env):
        nonlocal served
        served += 1
        name = f"clusters-{os.getpid()}-{served}"
        app = Path(__file__).with_name("app.py")
        processes.start([*before, sys.executable, "-m", "isthmus", "serve", str(app), "--bus", name], **env)
        with isthmus.connect(name, wait=PATIENCE) as bus:
            yield bus

    return serve


@pytest.fixture
def call_from_javascript(node):
    """Runs `double.mjs` on a bus. Returns what it prints, on both of its outputs."""

    def call_from_javascript(bus):
        command = [node, Path(__file__).with_name("double.mjs"), bus.name]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return [ran.stdout, ran.stderr]

    return call_from_javascript


@pytest.fixture(scope="session")
def processes_type():
    return Processes
