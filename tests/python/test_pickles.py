"""Pickles: from Python to Python, where both asked for it, and nowhere else."""

import asyncio
import ctypes
import decimal
import fractions
import gc
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import isthmus
from isthmus import pickles

HOST = """
    import fractions, sys, types
    import numpy as np
    import isthmus

    class Model:
        def __init__(self, weights):
            self.weights = weights

    @isthmus.export
    def kind(x):
        return f"{type(x).__module__}.{type(x).__name__}"

    @isthmus.export
    def same(x):
        return x

    @isthmus.export
    def half():
        return fractions.Fraction(1, 2)

    @isthmus.export
    async def later():
        return [fractions.Fraction(1, 2)]

    @isthmus.export
    def halves(count):
        for i in range(count):
            yield fractions.Fraction(i, 2)

    @isthmus.export
    async def async_halves(count):
        for i in range(count):
            yield fractions.Fraction(i, 2)

    @isthmus.export
    def series(size):
        return types.SimpleNamespace(a=np.arange(float(size)), b=np.ones(size, "u1"))

    @isthmus.export
    def add(x):
        return x.a + x.b

    @isthmus.export
    def writes(x):
        x.a[0] = 7

    @isthmus.export
    def each(f, count):
        return [f(fractions.Fraction(i, 2)) for i in range(count)]

    @isthmus.export
    def fails():
        raise LookupError(fractions.Fraction(1, 2))

    @isthmus.export
    def not_here():
        return Model(1)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory, served_type):
    name = f"pickles-{id(HOST)}"
    served = served_type(tmp_path_factory.mktemp("pickles"), name, HOST, "--pickle").ready()
    yield served
    assert served.end() == 0
    served.close()


@pytest.fixture(scope="module")
def bus(served):
    with isthmus.connect(served.name, pickle=True) as bus:
        yield bus


@pytest.fixture(scope="module")
def careful(served):
    """A caller that did not ask."""
    with isthmus.connect(served.name) as bus:
        yield bus


def test_what_has_no_value_form_crosses_as_itself(bus):
    third = fractions.Fraction(1, 3)
    assert bus.call("kind", third) == "fractions.Fraction"
    assert bus.call("same", third) == third
    back = bus.call("same", {"deep": [third, {third: 1}, (1, third)]})
    assert back["deep"][0] == third
    assert bus.call("kind", x=third) == "fractions.Fraction"


def test_so_do_results_items_and_what_coroutines_give(bus):
    half = fractions.Fraction(1, 2)
    assert bus.call("half") == half
    assert bus.call("later") == [half]
    for stream in ("halves", "async_halves"):
        assert list(bus.stream(stream, 600)) == [fractions.Fraction(i, 2) for i in range(600)]
    assert bus.submit("half").result(20) == half
    assert asyncio.run(asyncio.wait_for(call_async(bus), 20)) == half


async def call_async(bus):
    return await bus.call_async("half")


def test_arrays_inside_are_not_copied_where_they_lie_in_the_bus_and_elsewhere_once(bus, served):
    a, b = isthmus.empty(10_000), isthmus.empty(10_000, "u1")
    a[:], b[:] = 2, 3
    value = bus.call("series", 10)
    value.a, value.b = a, b
    before = bus.stats()
    assert (bus.call("add", value) == 5).all()
    back = bus.call("same", value)
    after = bus.stats()
    assert np.shares_memory(back.a, a)
    assert np.shares_memory(back.b, b)
    assert after["self"]["bytes_copied"] == before["self"]["bytes_copied"]
    assert after["host"]["bytes_copied"] == before["host"]["bytes_copied"]
    value.a = a.copy()
    bus.call("add", value)
    assert bus.stats()["self"]["bytes_copied"] - after["self"]["bytes_copied"] == a.nbytes


def test_what_numpy_computed_over_there_comes_as_it_lies(bus):
    bus.call("series", 10)
    before = bus.stats()["host"]["bytes_copied"]
    value = bus.call("series", 100_000)
    assert np.array_equal(value.a, np.arange(100_000.0))
    assert value.b.all()
    assert bus.stats()["host"]["bytes_copied"] == before


def test_lent_buffers_are_read_only(bus):
    value = bus.call("series", 10)
    for size in (10, 100_000):
        value.a = np.zeros(size)
        with pytest.raises(isthmus.PythonError, match="read-only"):
            bus.call("writes", value)
        assert value.a[0] == 0


def test_a_pickle_keeps_its_memory_for_as_long_as_it_is_kept_and_no_longer(bus, until):
    def leases():
        gc.collect()
        bus.call("half")
        stats = bus.stats()
        return [stats[who]["leases_taken"] - stats[who]["leases_released"] for who in ("self", "host")]

    before = leases()
    kept = [bus.call("series", 50_000) for _ in range(20)]
    for _ in range(50):
        bus.call("same", bus.call("series", 50_000))
    assert all(np.array_equal(value.a, np.arange(50_000.0)) for value in kept)
    del kept
    until(lambda: leases() == before)


def test_what_numpy_can_not_send_otherwise_goes_as_a_pickle(bus):
    objects = np.array([fractions.Fraction(1, 3), None], dtype=object)
    assert (bus.call("same", objects) == objects).all()
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    assert bus.call("same", masked).mask.tolist() == [False, True, False]


def test_what_has_a_value_form_keeps_it(bus):
    assert bus.call("kind", decimal.Decimal("1.5")) == "builtins.str"
    assert bus.call("kind", np.zeros(3)) == "numpy.ndarray"
    assert bus.call("kind", {"a": 1}) == "builtins.dict"


def test_functions_classes_modules_and_iterators_stay_where_they_are(bus):
    assert bus.call("each", lambda x: x * 2, 3) == [0, 1, 2]  # called here, with a pickle each
    for value in (test_what_has_a_value_form_keeps_it, fractions.Fraction, fractions, len):
        assert bus.call("kind", value).startswith("isthmus.")
        assert bus.call("same", value) is value
    assert bus.call("kind", iter([1])) == "isthmus.streams.Stream"


def test_so_does_what_can_not_be_pickled(bus):
    class Local:
        pass

    value = Local()
    assert bus.call("kind", value) == "isthmus.proxies.RemoteObject"
    assert bus.call("same", value) is value
    assert bus.call("same", [value, fractions.Fraction(1, 2)]) == [value, fractions.Fraction(1, 2)]


def test_what_can_not_be_unpickled_is_an_error_that_says_why(bus):
    with pytest.raises((ImportError, AttributeError), match="app"):
        bus.call("not_here")
    assert bus.call("half") == fractions.Fraction(1, 2)


# --- who did not ask -------------------------------------------------------------------------------------


def test_a_caller_that_did_not_ask_is_served_as_ever(careful):
    remote = careful.call("half")
    assert type(remote) is isthmus.RemoteObject
    assert remote.numerator == 1
    assert careful.call("kind", fractions.Fraction(1, 3)) == "isthmus.proxies.RemoteObject"
    assert type(next(careful.stream("halves", 3))) is isthmus.RemoteObject
    assert type(careful.call("later")[0]) is isthmus.RemoteObject
    seen = []
    careful.call("each", lambda x: seen.append(type(x)), 1)
    assert seen == [isthmus.RemoteObject]


def test_a_call_to_a_host_that_did_not_ask_is_refused_before_it_is_sent(serve, name):
    serve(HOST).ready()
    with isthmus.connect(name, pickle=True) as bus:
        for begin in (bus.call, lambda *a: bus.submit(*a).result(20), lambda *a: next(bus.stream(*a))):
            with pytest.raises(
                isthmus.EncodeError, match=r"args\[0\]\.a\[1\] is sent as a pickle, .*'kind' .*--pickle"
            ):
                begin("kind", {"a": [1, fractions.Fraction(1, 2)]})
        assert bus.call("kind", 1) == "builtins.int"
        assert type(bus.call("half")) is isthmus.RemoteObject
        assert bus.stats()["host"]["errors"] == 0


class Bomb:
    """Tells whether it was read."""

    def __reduce__(self):
        return (subprocess.check_call, (["touch", self.path],))

    def __init__(self, path):
        self.path = str(path)


def memory_of_bus():
    """The peers' part of the segment that this process has mapped last, as a hostile peer may write to it."""
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if "/memfd:isthmus" in line and " rw-s 00000000" in line]
    return [int(line.split("-")[0], 16) for line in lines]


def claim_that_everyone_asked():
    """Writes the word by which a peer says that it takes pickles, for all peers."""
    label, asked, peer_bytes, header_bytes, peers = 20, 260, 1280, 4096, 64
    for base in memory_of_bus():
        for slot in range(peers):
            peer = base + header_bytes + slot * peer_bytes
            if ctypes.string_at(peer + label, 1) != b"\0":
                ctypes.c_uint32.from_address(peer + asked).value = 1


def test_a_host_that_did_not_ask_reads_no_pickle_whatever_comes(serve, name, tmp_path):
    serve(HOST).ready()
    with isthmus.connect(name, pickle=True) as bus:
        bus.call("kind", 1)
        claim_that_everyone_asked()
        for value in (Bomb(tmp_path / "read"), [1, {"x": Bomb(tmp_path / "read")}]):
            with pytest.raises(isthmus.PythonError, match="a pickle has come and was not read"):
                bus.call("kind", value)
        assert not (tmp_path / "read").exists()
        large = bus.call("series", 3)
        assert type(large) is isthmus.RemoteObject
        stats = bus.stats()["host"]
        assert stats["leases_taken"] == stats["leases_released"]
        assert bus.call("kind", 1) == "builtins.int"


def test_nor_does_a_caller(name, tmp_path):
    isthmus.export(name="pk_bomb")(lambda: Bomb(tmp_path / "read"))
    isthmus.export(name="pk_bombs")(lambda: iter([Bomb(tmp_path / "read")]))
    with isthmus.Host(name, pickle=True), isthmus.connect(name) as bus:
        assert type(bus.call("pk_bomb")) is isthmus.RemoteObject
        claim_that_everyone_asked()
        for fetch in (lambda: bus.call("pk_bomb"), lambda: next(bus.stream("pk_bombs"))):
            with pytest.raises(isthmus.Error, match="a pickle has come and was not read"):
                fetch()
        assert not (tmp_path / "read").exists()


def test_pickles_are_read_in_two_places():
    """So that whoever looks for the risk finds all of it: what peers send, and what executors carry."""
    package = re.compile(r"\b(pickle|marshal|shelve)\b.*\bload|\bloads?\(")
    harmless = re.compile(r"\b(json|toml)\.loads")
    root = Path(isthmus.__file__).parent
    readers = [path.name for path in root.glob("*.py") if package.search(harmless.sub("", path.read_text()))]
    assert sorted(readers) == ["offsite.py", "pickles.py"]
    assert pickles.load(pickles.dump(fractions.Fraction(1, 2))) == fractions.Fraction(1, 2)
