"""The other files of this folder on the other Pythons, with a quarter of the examples."""

import os
import subprocess

import pytest
from conftest import here

others = [each for each in os.environ.get("ISTHMUS_TEST_PYTHONS", "").split(":") if each]
names = ["callbacks", "cancel", "hops", "lent", "property", "remote", "streams"]


@pytest.mark.skipif(not others, reason="no other Pythons in $ISTHMUS_TEST_PYTHONS")
@pytest.mark.timeout(1200)
def test_the_others_pass_too():
    for python in others:
        files = [here / f"test_{name}.py" for name in names]
        run = subprocess.run(
            [python, "-m", "pytest", "-q", "--color=no", *files],
            env={**os.environ, "ISTHMUS_TEST_EXAMPLES": "0.25"},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{python}\n{run.stdout[-8000:]}{run.stderr[-2000:]}"
