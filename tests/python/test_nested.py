"""Callbacks: who waits serves the calls that belong to what it waits for meanwhile, and no others."""

import asyncio
import threading
import time

import pytest

import isthmus

APP = """
    import time
    import isthmus

    log = []

    @isthmus.export
    def each(items, callback):
        return [callback(item) for item in items]

    @isthmus.export
    def down(count, callback):
        return 0 if count == 0 else 1 + callback(count - 1)

    @isthmus.export
    def note(value):
        log.append(value)
        return list(log)

    @isthmus.export
    def hold(callback):
        log.append("hold begins")
        callback()
        log.append("hold ends")

    @isthmus.export
    def guard(callback):
        try:
            return callback()
        except BaseException as error:
            log.append(error)
            raise

    @isthmus.export
    def guarded():
        return log[-1].args

    @isthmus.export
    def count(to):
        yield from range(to)

    @isthmus.export
    def time_left(callback):
        return callback()

    @isthmus.export
    def wait_until_cancelled(began):
        began()
        until = time.monotonic() + 20
        while not isthmus.current().cancelled and time.monotonic() < until:
            pass
        log.append("cancelled" if isthmus.current().cancelled else "never")

    @isthmus.export
    def look():
        until = time.monotonic() + 0.1
        while not isthmus.current().cancelled and time.monotonic() < until:
            time.sleep(0.001)
        return "looked"

    for name in ("look_1", "look_2", "look_3"):
        isthmus.export(name=name)(look)

    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    @isthmus.export
    def rude():
        raise Rude(1)

    @isthmus.export
    def quit():
        raise SystemExit(3)

    @isthmus.export
    def interrupt():
        raise KeyboardInterrupt
"""


@pytest.fixture
def bus(serve, name):
    serve(APP).ready()
    with isthmus.connect(name) as bus:
        yield bus


def test_an_export_calls_back(bus):
    assert bus.call("each", [1, 2, 3], lambda item: item * 10) == [10, 20, 30]


def test_a_callback_calls_the_host_that_waits_for_it(bus):
    seen = bus.call("each", ["a", "b"], lambda item: bus.call("note", item))
    assert seen == [["a"], ["a", "b"]]


def test_both_sides_call_each_other_a_hundred_deep(bus):
    def up(count):
        return 0 if count == 0 else 1 + bus.call("down", count - 1, up)

    assert bus.call("down", 100, up) == 100


def test_nesting_has_a_limit_and_an_error(bus):
    def up(count):
        return bus.call("down", count, up)

    with pytest.raises(isthmus.Error, match="nested deeper than 128"):
        bus.call("down", 10**6, up)
    assert bus.call("down", 0, up) == 0


def test_what_does_not_belong_to_the_call_keeps_its_turn(bus):
    other = []
    began, go_on = threading.Event(), threading.Event()

    def callback():
        began.set()
        assert go_on.wait(20)

    holder = threading.Thread(target=bus.call, args=["hold", callback])
    holder.start()
    assert began.wait(20)
    caller = threading.Thread(target=lambda: other.append(bus.call("note", "other")))
    caller.start()
    time.sleep(0.05)
    assert not other
    go_on.set()
    caller.join()
    holder.join()
    assert other == [["hold begins", "hold ends", "other"]]


def test_a_callback_reads_a_stream_of_the_host_that_waits_for_it(bus):
    assert bus.call("each", [3, 5], lambda to: list(bus.stream("count", to))) == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_calls_that_come_while_one_of_them_looks_whether_it_is_cancelled_are_performed_too(bus):
    async def callback():
        looks = []
        for name in ("look", "look_1", "look_2", "look_3"):
            looks.append(asyncio.ensure_future(bus.call_async(name)))
            await asyncio.sleep(0.03)
        return [await each for each in looks]

    assert bus.call("each", [0], lambda _: callback()) == [["looked"] * 4]


def test_the_exception_of_a_callback_is_the_very_same_when_it_comes_home(bus):
    class Own(Exception):
        pass

    own = Own("mine", object())

    def fail():
        raise own

    with pytest.raises(Own) as caught:
        bus.call("guard", fail)
    assert caught.value is own
    if hasattr(own, "__notes__"):  # from Python 3.11 on
        assert "through Python" in own.__notes__[0]
        assert "callback()" in own.__notes__[0]


def test_what_the_host_saw_of_it_tells_type_and_message(bus):
    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        bus.call("guard", fail)
    assert bus.call("guarded") == ("ValueError: mine",)


def test_the_deadline_travels_with_the_calls_that_it_leads_to(bus):
    now = time.monotonic()
    deadline = bus.call("time_left", lambda: isthmus.current().deadline, timeout=7)
    assert now + 6 < deadline < now + 7.5
    assert bus.call("time_left", lambda: isthmus.current().deadline) is None


def test_a_running_export_sees_that_it_was_cancelled(bus, until):
    began = threading.Event()
    future = bus.submit("wait_until_cancelled", began.set)
    assert began.wait(20)
    assert future.cancel()
    assert until(lambda: bus.call("note", "after"))[0] == "cancelled"


@pytest.mark.parametrize("how", ["quit", "interrupt"])
def test_what_ends_programs_is_an_error_of_its_call_alone(bus, how):
    kind = {"quit": "SystemExit", "interrupt": "KeyboardInterrupt"}[how]
    with pytest.raises(isthmus.PythonError, match=kind) as caught:
        bus.call(how)
    assert caught.value.type == kind
    assert bus.call("note", 1) == [1]


def test_an_exception_without_a_text_arrives(bus):
    with pytest.raises(isthmus.PythonError, match="its __str__ failed") as caught:
        bus.call("rude")
    assert caught.value.type == "Rude"
