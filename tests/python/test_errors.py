"""Exceptions of an export, and calls that can't be made, as the caller meets them."""

import builtins
import pickle

import pytest

import isthmus
from isthmus.errors import remote_error

FAILING = """
    import datetime
    import sys
    import isthmus

    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Custom(ValueError):
        pass

    @isthmus.export
    def fail(kind):
        if kind == "custom":
            raise Custom("bad value", 3, [1.5, None], object)
        if kind == "chain":
            try:
                {}["missing"]
            except KeyError as error:
                raise Custom("outer") from error
        if kind == "context":
            try:
                1 / 0
            except ZeroDivisionError:
                raise Custom("while handling")
        if kind == "hidden":
            try:
                1 / 0
            except ZeroDivisionError:
                raise Custom("alone") from None
        if kind == "odd":
            raise Odd("x", object())
        if kind == "exit":
            sys.exit(3)
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "generator":
            raise GeneratorExit
        if kind == "deep":
            def down(n):
                return down(n + 1)
            down(0)
        if kind == "cycle":
            a, b = ValueError("a"), ValueError("b")
            a.__cause__, b.__cause__ = b, a
            raise a
        if kind == "surrogate":
            raise ValueError("\\ud800")
        if kind == "memory":
            raise MemoryError
        if kind == "group":
            raise ValueError("g" * 1_000_000)
        return "fine"

    @isthmus.export
    def handle():
        return [1, {"handle": datetime.datetime(2024, 1, 1)}]

    @isthmus.export
    def relay(callback):
        try:
            return callback()
        except Custom as error:
            return [type(error).__name__, error.__cause__ is None]
        except Exception as error:
            return [type(error).__name__, str(error), type(error.__cause__).__name__]

    @isthmus.export
    def total(x):
        return sum(x)
"""


@pytest.fixture
def bus(serve, name):
    serve(FAILING).ready()
    with isthmus.connect(name) as bus:
        yield bus
        assert bus.call("fail", None) == "fine"


def test_an_exception_arrives_with_type_message_arguments_and_traceback(bus):
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("fail", "custom")
    error = caught.value
    assert error.type == "Custom"
    assert error.message.startswith("('bad value', 3, [1.5, None], <class")
    assert error.remote_args == ["bad value", 3, [1.5, None], "<class 'object'>"]
    assert "app.py" in error.traceback
    assert 'raise Custom("bad value"' in error.traceback
    assert error.code == "PYTHON"
    assert isinstance(error, isthmus.Error)


def test_the_cause_comes_with_it(bus):
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("fail", "chain")
    cause = caught.value.__cause__
    assert isinstance(cause, isthmus.PythonError)
    assert (cause.type, cause.message, cause.remote_args) == ("KeyError", "'missing'", ["missing"])
    assert "direct cause" in caught.value.traceback


def test_so_does_the_exception_that_was_being_handled(bus):
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("fail", "context")
    assert caught.value.__cause__.type == "ZeroDivisionError"
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("fail", "hidden")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("kind", "type_name", "message"),
    [
        ("odd", "Odd", "(its __str__ failed)"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("generator", "GeneratorExit", ""),
        ("deep", "RecursionError", "maximum recursion depth exceeded"),
        ("cycle", "ValueError", "a"),
        ("surrogate", "ValueError", "\ud800"),
        ("memory", "MemoryError", ""),
        ("group", "ValueError", "g" * 1_000_000),
    ],
)
def test_whatever_is_raised_is_the_error_of_that_call_alone(bus, kind, type_name, message):
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("fail", kind)
    assert caught.value.type == type_name
    assert caught.value.message.startswith(message)
    assert bus.call("total", [1, 2]) == 3


def test_a_wrong_signature_is_a_type_error_of_the_export(bus):
    for call in (lambda: bus.call("total"), lambda: bus.call("total", 1, 2), lambda: bus.call("total", y=1)):
        with pytest.raises(isthmus.PythonError, match=r"TypeError: total\(\)"):
            call()


def test_a_result_that_can_not_travel_says_where(bus):
    with pytest.raises(isthmus.PythonError) as caught:
        bus.call("handle")
    assert caught.value.type == "EncodeError"
    assert caught.value.message.startswith("result[1].handle is a datetime without a time zone")


def test_an_exception_that_passes_through_another_peer_is_itself_again(bus):
    assert bus.call("relay", lambda: bus.call("fail", "hidden")) == ["Custom", True]


def test_an_exception_of_a_function_that_was_handed_over_keeps_its_type_and_cause(bus):
    def fail():
        try:
            raise LookupError("first")
        except LookupError as error:
            raise OSError("then") from error

    assert bus.call("relay", fail) == ["PythonError", "OSError: then", "PythonError"]


def test_an_error_that_was_told_can_be_told_again_and_pickled(bus):
    about = {"type": "RangeError", "message": "far", "traceback": "at x.js:1", "language": "javascript"}
    error = remote_error({**about, "cause": {"type": "KeyError", "module": "builtins", "language": "python"}})
    assert isinstance(error, isthmus.JsError)
    assert isinstance(error.__cause__, isthmus.PythonError)
    assert error.stack == "at x.js:1"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.stack) == (isthmus.JsError, "RangeError: far", "at x.js:1")


def test_an_unknown_export_names_what_is_close(bus):
    with pytest.raises(isthmus.NotExported) as caught:
        bus.call("totale", 1)
    assert str(caught.value) == "the host exports no function named 'totale': did you mean total?"
    assert (caught.value.name, caught.value.close, caught.value.code) == ("totale", ["total"], "NOT_EXPORTED")
    with pytest.raises(isthmus.NotExported, match=r"named 'quite else'$"):
        bus.call("quite else")


def test_every_error_has_a_code_of_its_own_and_one_base():
    classes = [
        value
        for value in vars(isthmus).values()
        if isinstance(value, type) and issubclass(value, isthmus.Error)
    ]
    assert len(classes) == 10
    assert len({each.code for each in classes}) == 10
    assert issubclass(isthmus.TimeoutError, builtins.TimeoutError)
    assert all(each.__module__ == "isthmus" for each in classes)


def test_connecting_to_no_bus_says_what_to_run():
    with pytest.raises(isthmus.ConnectError) as caught:
        isthmus.connect("nobody-serves-this")
    assert str(caught.value) == (
        "no bus named 'nobody-serves-this' is being served: "
        "start one with `python -m isthmus serve app.py --bus nobody-serves-this`"
    )


def test_a_name_that_is_none_is_refused():
    for name in ("", "../x", "a/b", ".hidden", "a b"):
        with pytest.raises(isthmus.ConnectError, match="can't be the name of a bus"):
            isthmus.connect(name)
