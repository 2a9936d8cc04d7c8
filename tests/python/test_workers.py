"""Several workers as callers see them: which one is called, and what is lost with one that dies."""

import os
import signal

import pytest

import isthmus


def test_a_call_goes_to_the_worker_with_the_least_to_do(serve, app, connect, gate):
    serve(app, "--workers", "2").ready()
    caller, held = connect(), gate()
    busy = caller.submit("hold", str(held.path))
    others = {caller.call("pid") for _ in range(20)}
    assert others == {caller.call("pid")} != {held.holder()}
    held.open()
    assert busy.result() == held.holder()


def test_also_when_others_have_made_it_busy(serve, app, connect, gate):
    serve(app, "--workers", "2").ready()
    first, held = connect(), gate()
    busy = first.submit("hold", str(held.path))
    holder = held.holder()
    for caller in (connect(), connect(), connect()):
        assert caller.call("pid") != holder
    held.open()
    busy.result()


def test_as_many_calls_run_at_the_same_time_as_there_are_workers(serve, app, connect, gate):
    serve(app, "--workers", "3").ready()
    caller, gates = connect(), [gate(f"gate{i}") for i in range(3)]
    calls = [caller.submit("hold", str(each.path)) for each in gates]
    holders = [each.holder() for each in gates]
    assert len(set(holders)) == 3
    for each in gates:
        each.open()
    assert [call.result() for call in calls] == holders


def test_a_key_leads_all_callers_to_the_same_worker(serve, app, connect):
    serve(app, "--workers", "3").ready()
    one, other = connect(), connect()
    places = {f"key {i}": one.call("pid", sticky=f"key {i}") for i in range(40)}
    assert {key: other.call("pid", sticky=key) for key in places} == places
    assert [one.submit("pid", sticky="key 7").result() for _ in range(9)] == 9 * [places["key 7"]]
    assert len(set(places.values())) == 3


def test_when_a_worker_dies_only_its_keys_move_and_they_come_back(serve, app, connect, until, workers_of):
    serve(app, "--workers", "3").ready()
    caller = connect()

    def places():
        return {key: caller.call("pid", sticky=f"key {key}") for key in range(40)}

    before = places()
    victim = before[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: workers_of(caller) - set(before.values()))
    until(lambda: caller.call("pid", sticky="key 0") not in before.values())
    after = places()
    assert {key: pid for key, pid in after.items() if before[key] != victim} == {
        key: pid for key, pid in before.items() if pid != victim
    }
    assert len({after[key] for key, pid in before.items() if pid == victim}) == 1


def test_a_sticky_caller_stays_with_one_worker_unless_a_call_says_otherwise(serve, app, connect):
    serve(app, "--workers", "3").ready()
    caller = connect(sticky=True)
    home = caller.call("pid")
    assert {call.result() for call in [caller.submit("pid") for _ in range(60)]} == {home}
    spread = [caller.submit("pid", sticky=False) for _ in range(60)]
    assert len({call.result() for call in spread}) > 1
    assert connect().call("pid", sticky=True) > 0


def test_what_is_no_key_is_an_error(serve, app, connect):
    serve(app, "--workers", "2").ready()
    with pytest.raises(TypeError, match="sticky is True or a text that is the key, not 5"):
        connect().call("pid", sticky=5)


def test_a_killed_worker_loses_its_own_calls_and_no_others(serve, app, connect, gate):
    serve(app, "--workers", "2").ready()
    caller, one, two = connect(), gate("one"), gate("two")
    lost, kept = caller.submit("hold", str(one.path)), caller.submit("hold_on_loop", str(two.path))
    assert one.holder() != two.holder()
    os.kill(one.holder(), signal.SIGKILL)
    with pytest.raises(isthmus.PeerLost):
        lost.result()
    assert caller.call("pid") != one.holder()
    two.open()
    assert kept.result() == two.holder()


def test_calls_that_were_not_sent_go_to_the_worker_that_lives(serve, app, connect, gate):
    serve(app, "--workers", "2").ready()
    caller, held = connect(), gate()
    caller.submit("hold", str(held.path), sticky=True)
    holder = held.holder()
    others = [caller.submit("pid", sticky=True) for _ in range(5000)]
    os.kill(holder, signal.SIGKILL)
    errors = [other.exception() for other in others]
    assert all(error is None or isinstance(error, isthmus.PeerLost) for error in errors)
    assert any(error is None for error in errors)
