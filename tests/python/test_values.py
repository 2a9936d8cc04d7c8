"""What becomes what, on the way to a host and back."""

import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import sysconfig
import typing
import uuid
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

import isthmus

UTC = dt.timezone.utc


class Colour(enum.Enum):
    RED = "red"
    MIXED = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: typing.ClassVar[int] = 9
    label: str = "p"


class Pair(typing.NamedTuple):
    first: int
    second: list


class Text(str):
    pass


SAME = [
    None,
    True,
    False,
    0,
    -1,
    2**53,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    2**64,
    -(2**127),
    2**127,
    10**400,
    -(10**400),
    0.5,
    -1e308,
    5e-324,
    math.inf,
    -math.inf,
    "",
    "plain",
    "Zürich 東京 🌉",
    "\x00 in the middle",
    "\ud800 alone",
    "x" * 100_000,
    [],
    [[], [[]]],
    [1, "two", None, [3.0]],
    {},
    {"a": 1, "b": {"c": [None]}},
    {"": 0, "not a name": 1, "__proto__": 2},
    {1: "one", 2.5: [None], "three": {True}},
    set(),
    {1, "two", 3.5},
    dt.datetime(1970, 1, 1, tzinfo=UTC),
    dt.datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC),
    dt.datetime(1, 1, 1, tzinfo=UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
]


@pytest.mark.parametrize("value", SAME, ids=lambda value: repr(value)[:30])
def test_comes_back_as_it_was(echo, value):
    back = echo.call("echo", value)
    assert back == value
    assert type(back) is type(value)
    assert echo.call("echo", [value, {"in": value}]) == [value, {"in": value}]


def test_a_nan_stays_one_and_a_zero_keeps_its_sign(echo):
    assert math.isnan(echo.call("echo", math.nan))
    assert math.copysign(1, echo.call("echo", -0.0)) == -1


def test_true_is_no_1_and_1_0_is_no_1(echo):
    assert [type(value) for value in echo.call("echo", [True, 1, 1.0])] == [bool, int, float]


CHANGED = [
    (frozenset({1}), {1}),
    (3 + 4j, {"re": 3.0, "im": 4.0}),
    (Colour.RED, "red"),
    (Colour.MIXED, (1, 2)),
    (Level.HIGH, 3),
    (Point(1), {"x": 1, "label": "p"}),
    (Pair(1, [2]), {"first": 1, "second": [2]}),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (pathlib.Path("rel"), "rel"),
    (dt.date(2024, 2, 29), "2024-02-29"),
    (dt.time(1, 2, 3), "01:02:03"),
    (dt.timedelta(minutes=1, milliseconds=500), 60.5),
    (Text("sub"), "sub"),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=1), {"a": 1}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (np.float64(1.5), 1.5),
    (np.float32(1.5), 1.5),
    (np.float16(1.5), 1.5),
    (np.int8(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.bool_(True), True),
    (np.str_("s"), "s"),
    (np.complex128(1j), {"re": 0.0, "im": 1.0}),
]


@pytest.mark.parametrize(("value", "expected"), CHANGED, ids=lambda value: repr(value)[:30])
def test_becomes_its_counterpart(echo, value, expected):
    back = echo.call("echo", value)
    assert back == expected
    assert type(back) is type(expected)


def test_a_datetime_in_another_zone_is_the_same_instant_in_utc(echo):
    zone = dt.timezone(dt.timedelta(hours=-7, minutes=30))
    value = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=zone)
    back = echo.call("echo", value)
    assert back == value
    assert back.tzinfo is UTC


def test_a_datetime_keeps_its_microseconds(echo):
    value = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    assert echo.call("echo", value) == value


@pytest.mark.parametrize(
    "value", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), bytes(5000), bytes(100_000)]
)
def test_bytes_arrive_as_a_memoryview(echo, value):
    back = echo.call("echo", value)
    assert type(back) is memoryview
    assert back.format == "B"
    assert back == bytes(value)


def test_arguments_keep_their_places_and_names(echo):
    assert echo.call("echo", 1, [2], None) == [1, [2], None]
    assert echo.call("echo", timeout=5, a=1, self=2, naïve={"b": None}) == {
        "a": 1,
        "self": 2,
        "naïve": {"b": None},
    }


def test_values_nested_to_the_limit_pass(echo):
    value = []
    for _ in range(127):
        value = [value]
    assert echo.call("echo", value) == value


def cycle():
    rows = [1, {"self": None}]
    rows[1]["self"] = rows
    return rows


def deep():
    value = 0
    for _ in range(129):
        value = [value]
    return value


NAIVE = dt.datetime(2024, 1, 1)

REFUSED = [
    (lambda: [0, {"rows": [1, 2, 3, {"when": NAIVE}]}], "args[0][1].rows[3].when", "without a time zone"),
    (lambda: {"not a name": {3: NAIVE}}, "args[0]['not a name'][3]", "without a time zone"),
    (lambda: {(1, NAIVE): 1}, "args[0][(1, datetime", "without a time zone"),
    (cycle, "args[0][1].self", "contains itself: it is args[0] again"),
    (deep, "args[0]" + "[0]" * 128, "more than 128 levels"),
    (lambda: dt.datetime(2024, 1, 1), "args[0]", "without a time zone"),
    (lambda: [np.array([1, None])], "args[0][0]", "dtype object"),
    (lambda: np.zeros(2, np.longdouble), "args[0]", "dtype float128"),
    (lambda: np.ma.masked_array([1, 2], [True, False]), "args[0]", "masked"),
    (lambda: Point(NAIVE), "args[0].x", "without a time zone"),
    (lambda: Pair(1, [NAIVE]), "args[0].second[0]", "without a time zone"),
]


@pytest.mark.parametrize(
    ("make", "path", "why"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_can_not_travel_is_an_error_that_says_where(echo, make, path, why):
    before = echo.stats()["self"]["calls"]
    with pytest.raises(isthmus.EncodeError) as caught:
        echo.call("echo", make())
    assert caught.value.path.startswith(path)
    assert str(caught.value).startswith(path)
    assert why in str(caught.value)
    assert caught.value.code == "ENCODE"
    assert isinstance(caught.value, TypeError)
    assert echo.stats()["self"]["calls"] == before


def test_the_path_names_keyword_arguments(echo):
    with pytest.raises(isthmus.EncodeError, match=r"^kwargs\.rows\[1\] is a datetime") as caught:
        echo.call("echo", rows=[0, NAIVE])
    assert caught.value.path == "kwargs.rows[1]"


def test_a_list_that_shrinks_while_it_is_sent_is_an_error_or_sent_as_it_was(echo):
    rows = [None, 1, 2, 3]

    class Trap(enum.Enum):
        SPRUNG = 1

        @property
        def value(self):
            del rows[2:]
            return 0

    rows[0] = Trap.SPRUNG
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # what is sent is a copy there
        assert echo.call("echo", rows) == [0, 1, 2, 3]
        return
    with pytest.raises(isthmus.EncodeError, match="changed while it was being sent"):
        echo.call("echo", rows)


def test_a_value_that_shares_parts_without_end_has_a_limit(echo):
    value = "x" * 1024
    for _ in range(40):
        value = [value, value]
    with pytest.raises(isthmus.EncodeError, match="larger than 256 MiB"):
        echo.call("echo", value)
