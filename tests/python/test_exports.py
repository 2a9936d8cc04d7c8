"""What can be exported, and how it is named."""

import functools
import importlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import isthmus


@pytest.fixture
def bus(name):
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus


def test_a_function_is_exported_under_its_own_name_and_comes_back_unchanged(bus):
    def own_name(x):
        return x + 1

    assert isthmus.export(own_name) is own_name
    assert bus.call("own_name", 1) == 2


def test_or_under_a_name_that_is_given(bus):
    @isthmus.export(name="über.name/1")
    def plain():
        return "named"

    assert bus.call("über.name/1") == "named"
    with pytest.raises(isthmus.NotExported):
        bus.call("plain")


def test_whatever_can_be_called_can_be_exported(bus):
    class Model:
        def __init__(self):
            self.calls = 0

        def __call__(self, x):
            self.calls += 1
            return x * self.calls

        def method(self, *, scale=1):
            return scale * self.calls

    model = Model()
    isthmus.export(name="model")(model)
    isthmus.export(name="model.method")(model.method)
    isthmus.export(name="partial")(functools.partial(int, base=16))
    isthmus.export(name="max")(max)
    assert [bus.call("model", 5), bus.call("model", 5)] == [5, 10]
    assert bus.call("model.method", scale=10) == 20
    assert bus.call("partial", "ff") == 255
    assert bus.call("max", 1, 3, 2) == 3
    assert bus.call("max", [1, 2], key=None) == 2


def test_exports_can_be_added_while_the_host_serves(bus):
    with pytest.raises(isthmus.NotExported):
        bus.call("later")
    isthmus.export(name="later")(lambda: "here")
    assert bus.call("later") == "here"


def test_what_can_not_be_exported_is_refused_when_it_is_exported():
    with pytest.raises(TypeError, match="'fast'"):
        isthmus.export(fast=True)
    with pytest.raises(TypeError, match="takes a function"):
        isthmus.export(3)


def test_a_name_belongs_to_one_function():
    @isthmus.export(name="taken")
    def first():
        pass

    def second():
        pass

    with pytest.raises(ValueError, match=r"^'taken' is exported already, by .*first"):
        isthmus.export(name="taken")(second)


def test_a_reload_replaces_what_it_exports_again(bus, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    app = tmp_path / "reloaded_app.py"
    app.write_text("import isthmus\n\n@isthmus.export\ndef version():\n    return 1\n")
    module = importlib.import_module("reloaded_app")
    assert bus.call("version") == 1
    app.write_text("import isthmus\n\n@isthmus.export\ndef version():\n    return 22\n")
    importlib.reload(module)
    assert bus.call("version") == 22


class Frozen(NamedTuple):
    x: int


def test_lists_and_sets_that_are_keys_arrive_as_tuples_and_frozen_sets(bus):
    isthmus.export(name="keyed")(lambda x: x)
    for value in ({(1, (2, "b")): 3}, {frozenset({1, 2}): None}, {(1, 2), frozenset()}):
        assert bus.call("keyed", value) == value


def test_a_key_that_python_can_not_hash_is_an_error_of_that_call(bus):
    isthmus.export(name="keyed by a dict")(lambda x: x)
    with pytest.raises(isthmus.PythonError, match="unhashable"):
        bus.call("keyed by a dict", {Frozen(1): 3})


def test_the_guide_has_each_attribute_of_a_call(bus):
    isthmus.export(name="attributes")(lambda: [name for name in dir(isthmus.current()) if name[0] != "_"])
    names = bus.call("attributes")
    guide = (Path(__file__).parents[2] / "docs" / "crossing.md").read_text()
    rows = re.findall(r"^\| `\.(\w+)` \|", guide, re.MULTILINE)
    assert sorted(rows) == sorted(names)
