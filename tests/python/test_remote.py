"""Objects that stay where they are, functions that are handed over, and what is known of the call."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import time
import weakref
from fractions import Fraction
from typing import ClassVar

import pytest

import isthmus

kept: dict[str, object] = {}
returned = threading.Event()


loop = asyncio.new_event_loop()
loop.close()


class Account:
    interest = 2
    made_by = sys

    everything: ClassVar = {"module": sys}
    works_at = loop
    kind = str
    _hidden = 1

    @property
    def runs_in(self):
        return sys._getframe()

    def frames(self):
        return [sys._getframe()]

    def __init__(self, owner):
        self.owner = owner
        self.balance = 0
        self.log = []

    def pay(self, amount, *, note=None):
        if amount < 0:
            raise ValueError("an amount is not negative")
        self.balance += amount
        self.log.append(note)
        return self

    async def later(self, amount):
        await asyncio.sleep(0)
        return self.pay(amount)

    def __len__(self):
        return len(self.log)

    def __getitem__(self, key):
        return self.log[key]

    def __setitem__(self, key, value):
        self.log[key] = value

    def __delitem__(self, key):
        del self.log[key]

    def __iter__(self):
        return iter(self.log)

    def __repr__(self):
        return f"<Account of {self.owner}>"

    def __str__(self):
        return f"{self.owner}: {self.balance}"

    def __enter__(self):
        self.log.append("entered")
        return self

    def __exit__(self, kind, error, trace):
        self.log.append(kind and kind.__name__)
        return kind is KeyError

    def __add__(self, other):
        return self.balance + other if isinstance(other, int) else NotImplemented

    def __lt__(self, other):
        return self.balance < other


@isthmus.export
def rem_open(owner):
    return Account(owner)


@isthmus.export
def rem_same(a, b):
    return a is b


@isthmus.export
def rem_give(x):
    return x


@isthmus.export
def rem_keep(**things):
    kept.update(things)


@isthmus.export
def rem_kept(name):
    return kept[name]


@isthmus.export
def rem_fraction(*args):
    return Fraction(*args)


@isthmus.export
def rem_each(items, callback):
    return [callback(item) for item in items]


@isthmus.export
async def rem_aeach(items, callback):
    return list(await asyncio.gather(*(callback(item) for item in items)))


@isthmus.export
async def rem_each_in_threads(items, callback):
    return list(await asyncio.gather(*(asyncio.to_thread(callback, item) for item in items)))


@isthmus.export
def rem_call_later(callback):
    threading.Thread(target=lambda: callback(returned.wait(20))).start()


@isthmus.export
def rem_down(depth, callback):
    return depth if depth == 0 else callback(depth - 1)


@isthmus.export
def rem_current():
    call = isthmus.current()
    return [call.caller, call.name, call.deadline is not None, call.cancelled]


@isthmus.export
async def rem_acurrent():
    call = await asyncio.to_thread(isthmus.current)
    assert call is isthmus.current()
    return [call.caller, call.name, call.deadline is not None, call.cancelled]


@isthmus.export
def rem_raise_again(callback):
    callback()


@isthmus.export
def rem_left(callback):
    return callback()


@isthmus.export
def rem_time_left():
    return isthmus.current().deadline - time.monotonic()


@pytest.fixture
def bus(name):
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus
    kept.clear()


@pytest.fixture
def account(bus):
    return bus.call("rem_open", "Ada")


# --- remote objects ---


def test_what_has_no_value_form_comes_as_a_remote_object(account):
    assert isinstance(account, isthmus.RemoteObject)
    assert account.owner == "Ada"
    assert account.pay(5, note="first").balance == 5
    assert str(account) == f"{account}" == "Ada: 5"
    assert repr(account) == "<Account of Ada>"
    assert dir(account).count("interest") == 1


def test_its_attributes_and_items_can_be_changed(account):
    account.owner = "Grace"
    account.pay(1, note="a").pay(2, note="b").pay(3, note="c")
    account[0] = "first"
    del account[1]
    assert account.owner == "Grace"
    assert [account[0], account[-1], account[0:2]] == ["first", "c", ["first", "c"]]
    del account.owner
    assert not hasattr(account, "owner")
    with pytest.raises(IndexError):
        account[7]


def test_it_has_a_length_and_can_be_iterated_and_searched(account):
    assert len(account) == 0
    assert not account
    account.pay(1, note="a").pay(2, note="b")
    assert account
    assert list(account) == ["a", "b"]
    assert sorted(account, reverse=True) == ["b", "a"]
    assert "a" in account
    assert "z" not in account

    async def collect():
        return [note async for note in account]

    assert asyncio.run(collect()) == ["a", "b"]


def test_what_its_methods_raise_comes_with_its_type(account):
    with pytest.raises(TypeError, match="list indices must be integers") as caught:
        account["first"]
    assert isinstance(caught.value.__cause__, isthmus.PythonError)
    with pytest.raises(isthmus.PythonError, match="ValueError: an amount is not negative"):
        account.pay(-1)
    with pytest.raises(AttributeError, match="nothing"):
        _ = account.nothing
    assert getattr(account, "nothing", "else") == "else"


def test_a_context_manager_is_entered_and_left_over_there(account):
    with account as entered:
        assert entered is account
    with contextlib.suppress(ZeroDivisionError), account:
        raise ZeroDivisionError
    with account:
        raise KeyError("it takes this one")
    assert list(account) == ["entered", None, "entered", "ZeroDivisionError", "entered", "KeyError"]


def test_whatever_the_exception_is_that_it_is_left_with(account):
    with contextlib.suppress(UnicodeDecodeError), account:
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "a class that takes five arguments")
    assert account[-1] == "PythonError"


def test_operators_ask_both_operands_as_ever(bus, account):
    account.pay(5)
    assert account + 1 == 6
    with pytest.raises(TypeError):
        account + "one"
    assert account < 6
    assert not account < 5
    half, third = bus.call("rem_fraction", 1, 2), bus.call("rem_fraction", 1, 3)
    assert half + third == bus.call("rem_fraction", 5, 6)
    assert half != third
    assert 1 - half == half
    assert 2**half > 1.4
    assert half / third == 1.5
    assert float(half) == 0.5
    assert int(abs(-half) * 4) == 2
    assert -half < third <= half


def test_operators_that_a_number_lacks_for_a_fraction(bus):
    assert str(bus.call("rem_fraction", 1, 2) + bus.call("rem_fraction", 1, 2)) == "1"
    assert 5 + bus.call("rem_fraction", 1, 2) == 5.5


def test_identity_survives_the_round_trip(bus, account):
    assert bus.call("rem_same", account, account)
    bus.call("rem_keep", account=account)
    assert bus.call("rem_kept", "account") is account
    assert bus.call("rem_give", account) is account
    assert bus.call("rem_give", [account, {"it": account}])[1]["it"] is account
    assert hash(account) == hash(bus.call("rem_give", account))


def test_an_async_method_is_awaited(bus, account):
    assert account.later(3).balance == 3


def test_inside_a_running_loop_its_calls_are_awaited(bus):
    async def main():
        account = await bus.call_async("rem_open", "Ada")
        assert (await account.pay(7)) is account
        assert (await (await account.later(1)).pay(1)) is account
        return account

    assert asyncio.run(main()).balance == 9


def test_it_is_let_go_of_explicitly_or_when_it_is_dropped(bus, until):
    def opened(owner):
        account = bus.call("rem_open", owner)
        bus.call("rem_keep", latest=account)
        return account, weakref.ref(kept.pop("latest"))

    account, theirs = opened("explicitly")
    gc.collect()
    assert theirs() is not None
    account.release()
    until(lambda: bus.call("rem_give", 0) == 0 and gc.collect() >= 0 and theirs() is None)
    with pytest.raises(isthmus.Error, match="released"):
        account.pay(1)
    assert "released" in repr(account)
    account.release()

    account, theirs = opened("dropped")
    del account
    gc.collect()
    until(lambda: bus.call("rem_give", 0) == 0 and gc.collect() >= 0 and theirs() is None)


def test_it_is_let_go_of_when_its_holder_dies(bus, until):
    program = f"""
import isthmus, os, signal
bus = isthmus.connect({bus.name!r})
account = bus.call("rem_open", "a stranger")
bus.call("rem_keep", latest=account)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    theirs = weakref.ref(kept.pop("latest"))
    until(lambda: gc.collect() >= 0 and theirs() is None)


def test_an_object_of_the_dead_says_so(serve, name):
    served = serve(
        """
        import isthmus

        @isthmus.export
        def thing():
            return object()
        """
    ).ready()
    with isthmus.connect(name) as bus:
        thing = bus.call("thing")
        assert str(thing).startswith("<object object at")
        served.process.kill()
        served.wait()
        with pytest.raises(isthmus.PeerLost):
            str(thing)
    # What a killed host leaves on disk the next one of its name takes over.
    with isthmus.Host(name):
        pass


# --- what strangers may have of an object ---


def operate(bus, subject, *steps):
    """One operation, as whoever speaks the protocol may send it."""
    return bus._peer.native.call(("operate", subject, list(steps)), (), {}, None)


@pytest.mark.parametrize(
    "path",
    [
        ["__class__"],
        ["__init__", "__globals__"],
        ["pay", "__func__"],
        ["pay", "__self__"],
        ["made_by", "path"],
        ["runs_in", "f_globals"],
        ["works_at", "run_in_executor"],
        ["everything", ("item", "module"), "path"],
        ["frames", ("call",), ("item", 0), "f_globals"],
        ["kind", "mro"],
        ["kind", "format"],
        ["_hidden"],
        ["owner", "format"],
        ["__getattribute__", ("call", ["__class__"])],
        ["__setattr__", ("call", ["__class__", 1])],
        ["log", "__reduce_ex__"],
    ],
)
def test_an_object_does_not_lead_out_of_itself(bus, account, path):
    steps = [["get", step] if isinstance(step, str) else list(step) for step in path]
    with pytest.raises(isthmus.PythonError, match=r"does not let others have .*--allow") as caught:
        operate(bus, account.__isthmus_reference__, *steps)
    assert caught.value.type == "PermissionError"


def test_nor_is_it_given_another_class_or_relieved_of_what_it_is(bus, account):
    for step in (["set", "__class__", 1], ["set", "__exit__", 1], ["del", "__dict__"]):
        with pytest.raises(isthmus.PythonError, match="does not let others have"):
            operate(bus, account.__isthmus_reference__, step)


def test_but_where_everything_is_allowed_it_does(name):
    with isthmus.Host(name, allow="*"), isthmus.connect(name) as bus:
        account = bus.call("rem_open", "Ada")
        assert (
            operate(bus, account.__isthmus_reference__, ["get", "__class__"], ["get", "__name__"])
            == "Account"
        )


def numbers():
    yield 1


@pytest.mark.parametrize("subject", [1, None, [], {"a": 1}, print, numbers()])
def test_an_operation_is_on_an_object_of_the_host_and_on_nothing_else(bus, subject):
    with pytest.raises(isthmus.PythonError, match="begins with one of this peer's objects"):
        operate(bus, subject, ["get", "close"])


def test_nor_do_objects_of_others_lead_into_the_host_that_holds_them(bus, account):
    operate(bus, account.__isthmus_reference__, ["set", "log", numbers()])
    with pytest.raises(isthmus.PythonError, match="does not let others have"):
        operate(bus, account.__isthmus_reference__, ["get", "log"], ["get", "_native"])


def test_a_module_that_is_allowed_leads_to_others(name):
    with isthmus.Host(name, allow=["os"]), isthmus.connect(name) as bus:
        assert operate(bus, "os", ["get", "path"], ["get", "sep"]) == "/"
        path = operate(bus, "os", ["get", "path"])
        assert path.basename("a/b") == "b"
        with pytest.raises(isthmus.PythonError, match="does not let others have"):
            operate(bus, "os", ["get", "__loader__"])


# --- functions that are handed over ---


def test_a_function_is_called_back_from_the_dispatcher(bus):
    assert bus.call("rem_each", [1, 2, 3], lambda x: x * 10) == [10, 20, 30]


def test_from_a_coroutine(bus):
    assert bus.call("rem_aeach", [1, 2, 3], lambda x: x * 10) == [10, 20, 30]

    async def slow(x):
        await asyncio.sleep(0.01)
        return x * 10

    assert bus.call("rem_aeach", list(range(100)), slow) == list(range(0, 1000, 10))

    async def main():
        return await bus.call_async("rem_aeach", [1, 2], slow)

    assert asyncio.run(main()) == [10, 20]


def test_and_from_threads(bus):
    assert bus.call("rem_each_in_threads", [1, 2, 3], lambda x: x * 10) == [10, 20, 30]

    called = threading.Event()
    seen = []

    def callback(waited):
        seen.append(waited)
        called.set()

    bus.call("rem_call_later", callback)
    returned.set()
    assert called.wait(20)
    assert seen == [True]


def test_a_coroutine_function_is_called_back_too(bus):
    async def double(x):
        await asyncio.sleep(0)
        return 2 * x

    assert bus.call("rem_each", [1, 2], double) == [2, 4]


def test_a_function_that_comes_home_is_the_very_same(bus):
    def function(): ...

    assert bus.call("rem_give", function) is function
    assert bus.call("rem_give", [function] * 2) == [function] * 2
    assert bus.call("rem_same", function, function)


def test_two_peers_call_each_other_a_hundred_deep(bus):
    def down(depth):
        return depth if depth == 0 else bus.call("rem_down", depth - 1, down)

    assert bus.call("rem_down", 100, down) == 0


def test_but_not_without_an_end(bus):
    def down(depth):
        return bus.call("rem_down", depth + 1, down)

    with pytest.raises(isthmus.Error, match="nested deeper than 128"):
        bus.call("rem_down", 1, down)
    assert bus.call("rem_give", "still there") == "still there"


def test_an_exception_comes_back_as_itself(bus):
    class Mine(Exception):
        pass

    mine = Mine("with", object())

    def fail():
        raise mine

    with pytest.raises(Mine) as caught:
        bus.call("rem_raise_again", fail)
    assert caught.value is mine


# --- what is known of the call ---


@pytest.mark.parametrize("export", ["rem_current", "rem_acurrent"])
def test_a_handler_knows_who_called_and_until_when(bus, export):
    caller = bus.call(export)[0]
    assert caller
    assert bus.call(export) == [caller, export, False, False]
    assert bus.call(export, timeout=20) == [caller, export, True, False]


def test_nobody_called_where_nothing_is_served():
    assert isthmus.current() is None


def test_the_deadline_travels_with_nested_calls(bus):
    def nested():
        return bus.call("rem_time_left", timeout=1000)

    assert 0 < bus.call("rem_left", nested, timeout=15) <= 15
    assert 15 < bus.call("rem_left", nested, timeout=5000) <= 1000
