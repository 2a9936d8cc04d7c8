"""What other libraries return comes back with no more copies than docs/arrays.md says."""

import ast
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

import isthmus

IMPORTS = """
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.compute as pc
import scipy.fft, scipy.linalg, scipy.ndimage, scipy.signal, scipy.sparse
from PIL import Image
from sklearn import cluster, decomposition, ensemble, linear_model, preprocessing
"""

SECTION = (
    (Path(__file__).parents[2] / "docs/arrays.md")
    .read_text()
    .split("## What libraries return")[1]
    .split("\n## ")[0]
)
ROWS = re.findall(r"^\| (\w[\w-]*) \| `(.+)` \| (\S+) (\([\d, ]+\)) \| (none|one) \|$", SECTION, re.MULTILINE)
LARGE_ENOUGH = 32 << 10


def test_the_table_is_read_whole():
    table = [line for line in SECTION.splitlines() if line.startswith("| ")][1:]
    assert len(ROWS) == len(table) > 25


@pytest.fixture(scope="module")
def made():
    """What the rows work on, made as the documentation has it: before any call."""
    names = {}
    exec(IMPORTS, names)
    exec(re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1], names)
    return names


@pytest.fixture(scope="module")
def bus(made):
    isthmus.export(name="evaluate")(lambda expression: eval(expression, made))
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        name = f"libraries-{os.getpid()}"
        with isthmus.Host(name), isthmus.connect(name) as bus:
            yield bus


@pytest.mark.parametrize(("library", "expression", "dtype", "shape", "copies"), ROWS)
def test_a_row_of_the_table(bus, made, library, expression, dtype, shape, copies):
    before = bus.stats()["host"]["bytes_copied"]
    result = bus.call("evaluate", expression)
    bytes_copied = bus.stats()["host"]["bytes_copied"] - before
    assert result.dtype == dtype
    assert result.shape == ast.literal_eval(shape)
    assert result.nbytes >= LARGE_ENOUGH
    assert bytes_copied == {"none": 0, "one": result.nbytes}[copies]
    assert np.array_equal(result, np.asarray(eval(expression, made)), equal_nan=result.dtype.kind == "f")
