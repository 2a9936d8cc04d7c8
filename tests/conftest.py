"""What the tests of every room need: sockets in a directory of their own, and patience."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def sockets() -> Iterator[Path]:
    runtime = tempfile.mkdtemp(prefix="isthmus-test-")
    os.environ["XDG_RUNTIME_DIR"] = runtime
    gc.freeze()  # a collection need not go through what the tests' modules have imported
    yield Path(runtime) / "isthmus"
    shutil.rmtree(runtime)


@pytest.fixture(scope="session")
def node() -> str | None:
    """What runs JavaScript: the newest of those that are tested, else the one that is installed."""
    nodes = [each for each in os.environ.get("ISTHMUS_TEST_NODES", "").split(":") if each]
    return nodes[-1] if nodes else shutil.which("node")


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """Waits for something to become true, and returns it."""

    def until(condition: Callable[[], object], patience: float = 60) -> object:
        deadline = time.monotonic() + patience
        while not (found := condition()):
            assert time.monotonic() < deadline, "what was waited for did not happen"
            time.sleep(0.002)
        return found

    return until
