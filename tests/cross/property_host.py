"""Gives back what it gets, and makes values of its own."""

from datetime import datetime, timezone

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import isthmus


@isthmus.export
def echo(v):
    return v


@isthmus.export
def apply(f, v):
    return f(v)


@isthmus.export
def restream(values):
    yield from values


@isthmus.export
def arguments(*args):
    return args


@isthmus.export
def named(**named):
    return named


any_text = st.text(st.characters(codec=None, exclude_categories=()))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False).filter(lambda x: not x.is_integer())
    | any_text
    | st.binary(max_size=5000)
    | st.datetimes(
        datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(timezone.utc)
    ).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000))
)
arrays = hnp.arrays(
    hnp.integer_dtypes(endianness="=")
    | hnp.unsigned_integer_dtypes(endianness="=")
    | hnp.floating_dtypes(sizes=(32, 64), endianness="="),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=8),
)
keys = st.recursive(
    any_text | st.integers(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=3,
)
values = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner) | st.dictionaries(any_text, inner) | st.dictionaries(keys, inner) | st.sets(keys)
    ),
    max_leaves=12,
)
made = []


@isthmus.export
def generate(count):
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def collect(v):
        made.append(v)

    collect()
    return len(made)


@isthmus.export
def generated(i):
    return made[i]


def plain(key):
    """A key as it is after a journey: surrogates that make a pair are one character in JavaScript."""
    if isinstance(key, str):
        return key.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(key, tuple):
        return tuple(map(plain, key))
    return frozenset(map(plain, key)) if isinstance(key, frozenset) else key


def same(a, b):
    """b is what came back of a."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, bytes):
        return bytes(b) == a
    if isinstance(a, str):
        return isinstance(b, str) and plain(a) == b
    if isinstance(a, dict):
        keys = {plain(key): key for key in a}
        return type(b) is dict and keys.keys() == b.keys() and all(same(a[keys[key]], b[key]) for key in b)
    if isinstance(a, list):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set):
        return type(b) is set and set(map(plain, a)) == b
    return type(a) is type(b) and a == b


@isthmus.export
def compare(i, back):
    return None if same(made[i], back) else f"{made[i]!r} came back as {back!r}"
