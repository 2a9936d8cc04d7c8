"""There and back from Python, for values nobody thought of: equal, or an error with its path."""

import asyncio
import itertools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_host import same, values

import isthmus

examples = int(200 * float(os.environ.get("ISTHMUS_TEST_EXAMPLES", "1")))
relaxed = settings(
    max_examples=examples,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@relaxed
@given(v=values)
def test_any_value_comes_back_from_call_as_it_was(other, v):
    assert same(v, other.bus.call("echo", v))


@relaxed
@given(v=values)
def test_any_value_comes_back_in_a_future_as_it_was(other, v):
    assert same(v, other.bus.submit("echo", v).result())


@relaxed
@given(many=st.lists(values, max_size=20))
def test_any_values_come_back_to_coroutines_as_they_were(other, many):
    async def play():
        return await asyncio.gather(*(other.bus.call_async("echo", v) for v in many))

    backs = asyncio.run(play())
    assert all(same(v, back) for v, back in zip(many, backs, strict=True))


@relaxed
@given(v=values)
def test_any_value_goes_through_a_callback_and_back(other, v):
    seen = []
    back = other.bus.call("apply", lambda x: seen.append(x) or x, v)
    assert same(v, seen[0])
    assert same(v, back)


@settings(relaxed, max_examples=examples // 2)
@given(many=st.lists(values, max_size=30))
def test_any_values_stream_there_and_back(other, many):
    backs = list(other.bus.stream("restream", iter(many)))
    assert all(same(v, back) for v, back in itertools.zip_longest(many, backs))


steps = st.lists(st.integers(0, 3) | st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), max_size=10)


@relaxed
@given(path=steps, position=st.integers(0, 3))
def test_a_value_that_cannot_travel_is_an_error_with_its_path(other, path, position):
    circle = []
    circle.append(circle)
    v, at = circle, "[0]"
    for step in reversed(path):
        v = {"other": 1, step: v} if isinstance(step, str) else [*range(step), v]
    shown = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in path)
    with pytest.raises(isthmus.EncodeError) as found:
        other.bus.call("echo", *range(position), v)
    assert found.value.path == f"args[{position}]{shown}{at}"
