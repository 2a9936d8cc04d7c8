"""Modules as remote objects: what a host allows, and the steps of an operation."""

import asyncio

import pytest

import isthmus
from isthmus.remote import Operator, allowed_modules


@pytest.fixture
def everything():
    return Operator("test", allowed_modules("*"))


def do(operator, subject, *steps):
    return operator(subject, [list(step) for step in steps], None)


def test_no_module_is_allowed_unless_it_is_named():
    with pytest.raises(PermissionError, match=r"does not allow others to import 'math': .*--allow math"):
        do(Operator("test"), "math")


@pytest.mark.parametrize("allow", ["json,os.path", ["json", "os.path"], " json , os.path "])
def test_a_module_is_allowed_with_what_is_in_it(allow):
    operator = Operator("test", allowed_modules(allow))
    assert do(operator, "json", ["get", "__name__"]) == "json"
    assert do(operator, "json.decoder", ["get", "__name__"]) == "json.decoder"
    assert do(operator, "os.path", ["get", "join"], ["call", ["a", "b"], {}]) == "a/b"
    for name in ["os", "jso", "json_", "sys"]:
        with pytest.raises(PermissionError):
            do(operator, name)


def test_a_module_that_is_not_there_is_pythons_own_error(everything):
    with pytest.raises(ModuleNotFoundError):
        do(everything, "no_such_module")


def test_steps_are_gone_one_after_the_other(everything):
    assert do(everything, [3, 1, 2], ["get", "index"], ["call", [2], {}]) == 2
    assert do(everything, "fractions", ["get", "Fraction"], ["call", [1, 3], {}], ["get", "denominator"]) == 3
    assert do(everything, "builtins", ["get", "sorted"], ["call", [[3, 1]], {"reverse": True}]) == [3, 1]
    assert do(everything, [1, 2, 3], ["item", slice(0, 2)], ["len"]) == 2
    assert do(everything, {}, ["type"]) == "builtins.dict"
    assert do(everything, 1.5, ["str"]) == "1.5"


def test_a_step_that_fails_says_which_it_was(everything):
    with pytest.raises(AttributeError) as caught:
        do(everything, [1], ["item", 0], ["get", "reshape"], ["call", [3], {}])
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__ == ["in step 2 of 3: .reshape"]


def test_an_unknown_step_is_an_error_that_names_those_there_are(everything):
    with pytest.raises(ValueError, match=r"there is no step 'fly': use .*call.*item"):
        do(everything, [1], ["fly"])


def test_a_named_operator_asks_the_other_operand_too(everything):
    assert do(everything, 5, ["get", "__add__"], ["call", [2.5], {}]) == 7.5
    assert do(everything, 5, ["get", "__rsub__"], ["call", [7.5], {}]) == 2.5
    with pytest.raises(TypeError):
        do(everything, 5, ["get", "__add__"], ["call", ["x"], {}])


def test_a_coroutine_on_the_way_is_awaited(everything):
    class Page:
        async def fetch(self):
            return self

        async def text(self):
            return "text"

    result = do(everything, Page(), ["get", "fetch"], ["call", [], {}], ["get", "text"], ["call", [], {}])
    assert asyncio.run(result) == "text"


def test_a_context_manager_is_told_how_it_is_left(everything):
    class Told:
        def __enter__(self):
            return "entered"

        def __exit__(self, kind, error, trace):
            self.kind, self.error = kind, error
            return kind is not None

    told = Told()
    assert do(everything, told, ["enter"]) == "entered"
    assert do(everything, told, ["exit"]) is False
    assert told.kind is None
    assert do(everything, told, ["exit", {"type": "RangeError", "message": "far", "language": "javascript"}])
    assert told.kind is isthmus.JsError
    assert told.error.type == "RangeError"
    assert do(everything, told, ["exit", mine := KeyError("x")])
    assert told.error is mine


def test_so_is_an_async_one(everything):
    class Told:
        async def __aenter__(self):
            return "entered"

        async def __aexit__(self, kind, error, trace):
            return kind is not None

    assert asyncio.run(do(everything, Told(), ["enter"])) == "entered"
    assert asyncio.run(do(everything, Told(), ["exit"])) is False
    assert asyncio.run(do(everything, Told(), ["exit", ValueError()])) is True
