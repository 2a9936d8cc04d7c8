"""Errors on their way to Python: types, causes, each side's stack, and the same exception at home."""

import asyncio
import re
import sys

import pytest

import isthmus

applies = pytest.mark.parametrize("apply", ["apply", "apply_thread", "apply_async"])


@pytest.fixture
def theirs(other):
    """Of what `fail` raises over there: the class it has here, its type, its cause's, a line of its stack."""
    if other.language == "python":
        return isthmus.PythonError, "ValueError", "KeyError", r'peer\.py", line \d+, in fail'
    return isthmus.JsError, "RangeError", "TypeError", r"fail.*peer\.mjs"


def assert_theirs(error, theirs):
    assert type(error) is theirs[0]
    assert error.type == theirs[1]
    assert "a value" in error.message
    assert error.__cause__.type == theirs[2]
    assert re.search(theirs[3], error.traceback)


def test_an_error_comes_with_its_type_message_stack_and_cause(bus, theirs):
    with pytest.raises(isthmus.Error) as found:
        bus.call("fail")
    assert_theirs(found.value, theirs)
    assert_theirs(bus.submit("fail").exception(), theirs)

    async def play():
        with pytest.raises(isthmus.Error) as found:
            await bus.call_async("fail")
        assert_theirs(found.value, theirs)

    asyncio.run(play())


@applies
def test_there_here_there_here_an_error_keeps_its_type_its_cause_and_every_stack(bus, other, theirs, apply):
    def through_here():
        return bus.call("fail")

    with pytest.raises(isthmus.Error) as found:
        bus.call(apply, through_here)
    assert_theirs(found.value, theirs)
    if other.language == "javascript" or sys.version_info >= (3, 11):  # 3.10 has no notes in exceptions
        assert "in through_here" in found.value.traceback
    told = bus.call("told", through_here)
    assert [told["type"], told["cause"]["type"]] == [*theirs[1:3]]


def test_an_error_of_theirs_that_passes_through_us_is_the_same_for_them(bus):
    caught = []

    def catcher(thrower):
        try:
            return thrower()
        except isthmus.Error as error:
            caught.append(error.type)
            raise

    async def coroutine(thrower):
        return await thrower()

    assert bus.call("is_the_same", lambda thrower: thrower()) is True
    assert bus.call("is_the_same", coroutine) is True
    assert bus.call("is_the_same", catcher) is True
    assert caught in (["ValueError"], ["RangeError"])


@applies
def test_an_error_of_ours_that_passes_through_them_twice_is_the_same_for_us(bus, apply):
    ours = KeyError("ours")

    def thrower():
        raise ours

    with pytest.raises(KeyError) as found:
        bus.call(apply, lambda: bus.call(apply, thrower))
    assert found.value is ours


def test_an_error_of_ours_is_the_cause_of_theirs(bus):
    def thrower():
        raise KeyError("ours")

    with pytest.raises(isthmus.Error, match="wrapped") as found:
        bus.call("wrap", thrower)
    cause = found.value.__cause__
    assert [getattr(cause, "type", type(cause).__name__), "ours" in str(cause)] == ["KeyError", True]


def test_their_error_is_the_cause_of_ours_and_they_are_told_of_both(bus, theirs):
    def wrapping():
        try:
            bus.call("fail")
        except isthmus.Error as error:
            raise LookupError("wrapped here") from error

    told = bus.call("told", wrapping)
    assert told["type"] == "LookupError"
    assert "wrapped here" in told["message"]
    assert "in wrapping" in told["stack"]
    assert [told["cause"]["type"], told["cause"]["cause"]["type"]] == [*theirs[1:3]]
    with pytest.raises(LookupError, match="wrapped here") as found:
        bus.call("apply", wrapping)
    assert_theirs(found.value.__cause__, theirs)
