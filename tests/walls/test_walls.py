"""Keeps the walls between the rooms: who may include what, and that each header stands alone."""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports only go down: a room may include the rooms before it.
ROOMS = [
    "layout",
    "status",
    "ring",
    "arena",
    "census",
    "keeper",
    "segment",
    "board",
    "doorbell",
    "ticks",
    "slice",
    "peers",
    "control",
    "rendezvous",
    "broker",
    "wire",
    "lending",
    "link",
    "bus",
]

# Libraries that one room alone knows.
OWNERS = {
    r"boost/": "segment",
    r"flatbuffers/|.*_generated\.h$": "wire",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
PYTHON_IMPORT = re.compile(r"^\s*(?:from|import)\s+([\w.]+)", re.MULTILINE)
NODE_IMPORT = re.compile(r"""(?:\bfrom\s*|(?<!\.)\bimport\s*\(?\s*|\brequire\s*\(\s*)(['"])([^'"]+)\1""")

LANGUAGES = re.compile(r"napi\.h|node_api|js_native_api|v8\.h|node\.h|Python\.h|numpy/|uv\.h")


def sources(folder, *endings):
    return sorted(path for ending in endings for path in (ROOT / folder).rglob(f"*.{ending}"))


def includes(path):
    return [name for _, name in INCLUDE.findall(path.read_text())]


def own(path, name):
    """The file of ours that an include means, relative to the root; None for the libraries' own."""
    for base in (ROOT, path.parent):
        found = (base / name).resolve()
        if found.is_file() and found.is_relative_to(ROOT):
            return found.relative_to(ROOT)
    return None


def name_of(path):
    return str(path.relative_to(ROOT))


CORE = sources("bus", "hpp", "cpp")
NATIVE = {side: sources(f"adapters/{side}/native", "hpp", "cpp") for side in ("node", "python")}
ADAPTERS = NATIVE["node"] + NATIVE["python"]


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_every_file_of_the_core_belongs_to_a_room(path):
    assert path.stem in ROOMS


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_a_room_includes_only_rooms_below_it(path):
    for name in includes(path):
        ours = own(path, name)
        if ours is None:
            continue
        assert ours.parts[0] == "bus", f"{name}: the core includes nothing outside of bus/"
        assert ROOMS.index(ours.stem) <= ROOMS.index(path.stem), f"{name} is above {path.stem}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_language(path):
    assert [name for name in includes(path) if LANGUAGES.match(name)] == []


@pytest.mark.parametrize("path", CORE + ADAPTERS, ids=name_of)
def test_a_library_is_known_to_its_one_room(path):
    for name in includes(path):
        for library, room in OWNERS.items():
            if re.match(library, name):
                assert path.is_relative_to(ROOT / "bus"), f"{name} belongs to bus/{room}"
                assert path.stem == room, f"{name} belongs to bus/{room}"


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_an_adapter_includes_its_own_files_and_the_face_of_the_bus(path):
    for name in includes(path):
        ours = own(path, name)
        if ours is not None and ours.parent != path.parent.relative_to(ROOT):
            assert str(ours) == "bus/bus.hpp", f"{name}: adapters include bus/bus.hpp alone"


@pytest.mark.parametrize("path", NATIVE["node"], ids=name_of)
def test_the_node_adapter_knows_no_python(path):
    assert [name for name in includes(path) if re.match(r"Python\.h|numpy/", name)] == []


@pytest.mark.parametrize("path", NATIVE["python"], ids=name_of)
def test_the_python_adapter_knows_no_node(path):
    assert [name for name in includes(path) if re.match(r"napi\.h|node_api|js_native|v8|uv\.h", name)] == []


@pytest.mark.parametrize("path", sources("adapters/node/src", "ts"), ids=name_of)
def test_typescript_imports_its_own_files_and_node(path):
    for _, name in NODE_IMPORT.findall(path.read_text()):
        if name.startswith("."):
            assert (path.parent / name).resolve().is_relative_to(ROOT / "adapters/node"), name
        else:
            assert name.startswith("node:") or name in ("node-gyp-build", "apache-arrow"), name


# What the package uses when it is installed, and never needs.
OPTIONAL = {"numpy", "pyarrow", "pandas", "dask", "distributed", "ray"}


@pytest.mark.parametrize("path", sources("adapters/python/isthmus", "py"), ids=name_of)
def test_python_imports_its_own_files_and_the_standard_library(path):
    for name in PYTHON_IMPORT.findall(path.read_text()):
        top = name.split(".")[0]
        assert top in {"", "isthmus"} | OPTIONAL or top in sys.stdlib_module_names, name


def flags_of(folder):
    """How the build compiles a file of this folder, without its inputs and outputs."""
    for command in json.loads((ROOT / "build/release/compile_commands.json").read_text()):
        source = (Path(command["directory"]) / command["file"]).resolve()
        if source.parent == ROOT / folder and "mutant" not in command["output"]:
            words = shlex.split(command["command"])
            keep = [word for word in words if re.match(r"-(I|isystem|D|std=|W|f(?!lto))", word)]
            return Path(command["directory"]), keep
    raise AssertionError(f"the build compiles no file of {folder}")


HEADERS = [path for path in CORE + ADAPTERS if path.suffix == ".hpp"]


def compile_alone(path):
    directory, flags = flags_of(path.parent.relative_to(ROOT))
    return subprocess.run(
        ["g++", *flags, "-fdiagnostics-color=never", "-fsyntax-only", "-x", "c++", "-"],
        input=f'#include "{path}"\n',
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def compiled():
    """What the compiler says of each header, which all processors find out together."""
    with ThreadPoolExecutor(os.cpu_count()) as compilers:
        yield {path: compilers.submit(compile_alone, path) for path in HEADERS}


@pytest.mark.parametrize("path", HEADERS, ids=name_of)
def test_a_header_compiles_alone(compiled, path):
    done = compiled[path].result()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", HEADERS, ids=name_of)
def test_a_header_guards_itself(path):
    assert "#pragma once" in path.read_text()
