"""Coroutines: exports on the host's event loop, and calls that are awaited."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import time
import weakref

import aiohttp
import aiohttp.web
import pytest

import isthmus
from isthmus import futures

try:
    import uvloop
except ImportError:
    uvloop = None

PATIENCE = 20
runs = [asyncio.run] if uvloop is None else [asyncio.run, uvloop.run]
tag = contextvars.ContextVar("tag", default="untagged")
gate = threading.Event()


@isthmus.export
async def aio_add(a, b=0):
    await asyncio.sleep(0)
    return a + b


@isthmus.export
async def aio_nap(seconds, word=None):
    await asyncio.sleep(seconds)
    return word


@isthmus.export
async def aio_where():
    loop = asyncio.get_running_loop()
    return [threading.current_thread().name, type(loop).__module__, id(loop)]


@isthmus.export
async def aio_tag(value):
    before = tag.get()
    tag.set(value)
    await asyncio.sleep(0.01)
    return [before, tag.get(), await asyncio.to_thread(tag.get)]


@isthmus.export
def aio_tag_plainly(value):
    before = tag.get()
    tag.set(value)
    return before


@isthmus.export
def aio_tag_items(value):
    yield tag.get()
    tag.set(value)
    for _ in range(1000):
        yield tag.get()


@isthmus.export
async def aio_tag_items_later(value):
    yield tag.get()
    tag.set(value)
    for _ in range(1000):
        await asyncio.sleep(0)
        yield tag.get()


@isthmus.export
async def aio_tag_around(value, callback):
    tag.set(value)
    await callback()
    return tag.get()


@isthmus.export
async def aio_fail(word):
    await asyncio.sleep(0)
    raise LookupError(word)


@isthmus.export
async def aio_unsendable():
    return {"here": [object.__new__(type("Broken", (), {"__slots__": ()})), 2**70_000_000]}


@isthmus.export
def aio_hold():
    """Occupies the dispatcher until the gate opens."""
    gate.wait(20)


@isthmus.export
def aio_plain(x):
    return x


@pytest.fixture
def bus(name):
    with isthmus.Host(name), isthmus.connect(name) as bus:
        yield bus


def test_a_coroutine_function_is_exported_like_any_other(bus):
    assert bus.call("aio_add", 1, b=2) == 3


def test_whatever_returns_a_coroutine_is_awaited(bus):
    class Model:
        async def __call__(self, x):
            return await aio_add(x, 1)

    @functools.wraps(aio_add)
    def wrapped(*args):
        return aio_add(*args)

    isthmus.export(name="aio.model")(Model())
    isthmus.export(name="aio.partial")(functools.partial(aio_add, 10))
    isthmus.export(name="aio.wrapped")(wrapped)
    isthmus.export(name="aio.lambda")(lambda x: asyncio.sleep(0, x))
    assert bus.call("aio.model", 1) == 2
    assert bus.call("aio.partial", 1) == 11
    assert bus.call("aio.wrapped", 1, 2) == 3
    assert bus.call("aio.lambda", "slept") == "slept"


opened = asyncio.Event()


@isthmus.export
async def aio_wait(number):
    await opened.wait()
    return number


@isthmus.export
async def aio_open():
    opened.set()


def test_coroutines_run_beside_each_other_and_beside_plain_functions(bus):
    opened.clear()
    waiting = [bus.submit("aio_wait", number) for number in range(500)]
    assert bus.call("aio_plain", "at once") == "at once"
    assert not any(each.done() for each in waiting)
    bus.call("aio_open")
    assert [each.result(PATIENCE) for each in waiting] == list(range(500))


def test_ten_thousand_are_in_flight_at_once(bus):
    async def main():
        return await asyncio.gather(*(bus.call_async("aio_nap", 0.1, number) for number in range(10_000)))

    started = time.monotonic()
    assert asyncio.run(main()) == list(range(10_000))
    assert time.monotonic() - started < 20


def test_the_loop_is_woken_once_for_a_batch_and_not_once_for_a_call(name):
    async def main():
        loop = asyncio.get_running_loop()
        wakes = 0
        wake = loop.call_soon_threadsafe

        def counted(*args, **kwargs):
            nonlocal wakes
            wakes += 1
            return wake(*args, **kwargs)

        async with isthmus.Host(name):
            gate.clear()
            bus = await asyncio.to_thread(isthmus.connect, name)
            held = bus.submit("aio_hold")
            calls = [bus.submit("aio_add", number) for number in range(1000)]
            loop.call_soon_threadsafe = counted
            gate.set()
            results = [await asyncio.to_thread(call.result, 20) for call in calls if not call.done()]
            del loop.call_soon_threadsafe
            await asyncio.to_thread(held.result, 20)
            assert [call.result() for call in calls] == list(range(1000))
            await asyncio.to_thread(bus.close)
        return wakes - len(results)

    assert asyncio.run(main()) < 100


def test_the_loop_has_a_thread_of_its_own_and_is_uvloops_where_that_is_installed(bus):
    thread, module, loop = bus.call("aio_where")
    assert thread == f"isthmus-{bus.name}-asyncio"
    assert bus.call("aio_where")[2] == loop
    if uvloop is None:
        assert module.startswith("asyncio")
    else:
        assert module == uvloop.Loop.__module__


def test_no_loop_is_begun_where_no_coroutine_runs(bus):
    assert bus.call("aio_plain", 1) == 1
    assert f"isthmus-{bus.name}-asyncio" not in [thread.name for thread in threading.enumerate()]


def test_each_call_has_context_variables_of_its_own(bus):
    calls = [bus.submit("aio_tag", number) for number in range(50)]
    assert [call.result(20) for call in calls] == [["untagged", number, number] for number in range(50)]


def test_so_has_each_call_of_a_plain_function(bus):
    assert [bus.call("aio_tag_plainly", number) for number in range(3)] == ["untagged"] * 3
    assert tag.get() == "untagged"


@pytest.mark.parametrize("items", ["aio_tag_items", "aio_tag_items_later"])
def test_and_each_stream_from_its_first_item_to_its_last(bus, items):
    streams = [bus.stream(items, number) for number in range(3)]
    assert [next(stream) for stream in streams] == ["untagged"] * 3
    assert [list(stream) for stream in streams] == [[number] * 1000 for number in range(3)]


def test_a_coroutine_keeps_them_while_it_waits_for_a_callback(bus):
    seen = []

    async def main():
        tag.set("caller's")

        async def callback():
            seen.append(tag.get())
            tag.set("callback's")

        calls = (bus.call_async("aio_tag_around", number, callback) for number in range(20))
        assert await asyncio.gather(*calls) == list(range(20))
        assert tag.get() == "caller's"

    asyncio.run(main())
    assert len(seen) == 20
    assert set(seen) <= {"caller's", "untagged"}


def test_what_a_coroutine_raises_reaches_the_caller(bus):
    with pytest.raises(isthmus.PythonError, match="LookupError: lost") as caught:
        bus.call("aio_fail", "lost")
    assert caught.value.type == "LookupError"
    assert "in aio_fail" in caught.value.traceback
    assert "tasks.py" not in caught.value.traceback
    with pytest.raises(isthmus.PythonError, match="aio_add"):
        bus.call("aio_add")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_coroutine_raises_is_the_error_of_that_call_alone(name, kind):
    @isthmus.export(name=f"{name}.end")
    async def end():
        await asyncio.sleep(0)
        raise kind

    @isthmus.export(name=f"{name}.ends")
    async def ends():
        yield 1
        raise kind

    def work(bus):
        for attempt in (lambda: bus.call(f"{name}.end"), lambda: list(bus.stream(f"{name}.ends"))):
            with pytest.raises(isthmus.PythonError) as caught:
                attempt()
            assert caught.value.type == kind.__name__
        assert bus.call("aio_add", 1) == 1

    with isthmus.Host(name), isthmus.connect(name) as bus:
        work(bus)

    async def main():
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            await asyncio.to_thread(work, bus)
            await asyncio.to_thread(bus.close)

    asyncio.run(main())


def test_what_a_cancelled_coroutine_does_on_its_way_out_is_not_cancelled(name, until):
    seen = []

    @isthmus.export(name=f"{name}.slow_end")
    async def slow_end():
        try:
            seen.append("began")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            seen.append("tidied up")

    with isthmus.Host(name), isthmus.connect(name) as bus:
        call = bus.submit(f"{name}.slow_end")
        until(lambda: seen)
        call.cancel()
    assert seen == ["began", "tidied up"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_coroutine_that_is_cancelled_before_its_first_step_is_closed(name, is_stream):
    @isthmus.export(name=f"{name}.never")
    async def never():
        raise AssertionError("it was begun")

    async def main():
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            # The loop takes no step until the call and its cancellation have both reached it.
            stream = bus.stream(f"{name}.never", timeout=0.2)
            with pytest.raises(isthmus.TimeoutError):
                next(stream) if is_stream else bus.call(f"{name}.never", timeout=0.2)
            bus.call("aio_plain", 1)
            await bus.call_async("aio_add", 1)
            await asyncio.to_thread(bus.close)

    asyncio.run(main())
    gc.collect()  # which would warn of a coroutine that nobody awaited


@pytest.mark.parametrize("run", runs)
def test_a_host_inside_a_running_loop_uses_that(name, run):
    async def main():
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            _, _, loop = await bus.call_async("aio_where")
            assert loop == id(asyncio.get_running_loop())
            assert await bus.call_async("aio_add", 1, b=1) == 2
            await asyncio.to_thread(bus.close)

    run(main())


def test_a_caller_inside_a_running_loop_awaits(bus):
    async def main():
        first = bus.call_async("aio_nap", 0.2, "slow")
        second = bus.call_async("aio_plain", "fast")
        assert await second == "fast"
        assert await first == "slow"
        with pytest.raises(isthmus.NotExported):
            await bus.call_async("aio_nothing")
        with pytest.raises(TimeoutError):
            await bus.call_async("aio_nap", 5, timeout=0.05)

    asyncio.run(main())


def test_a_signal_handler_that_raises_leaves_the_loop_able_to_hear(bus, run):
    """As Ctrl-C's does: wherever it comes, what is called next is answered."""
    ran = run(
        """
        import asyncio, contextlib, signal, sys
        import isthmus

        async def lane():
            while True:
                await bus.call_async("aio_plain", "fast")

        async def flood():  # gather would raise a lane's interrupt again, when the loop runs next
            await asyncio.wait([asyncio.ensure_future(lane()) for _ in range(4)])

        async def once():
            return await asyncio.wait_for(bus.call_async("aio_plain", "fast"), 10)

        def interrupt(number, frame):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        loop = asyncio.new_event_loop()
        with isthmus.connect(sys.argv[1]) as bus:
            for i in range(300):
                with contextlib.suppress(KeyboardInterrupt):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0.002 + i * 1e-5, 0.1)
                        loop.run_until_complete(flood())
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                print(loop.run_until_complete(once()))
        """,
        bus.name,
    )
    assert ran.stdout.split() == ["fast"] * 300, ran.stderr


def test_what_a_loop_is_being_told_when_it_is_interrupted_comes_in_order_afterwards():
    loop = asyncio.new_event_loop()
    sink = futures.sink_of(loop)
    seen = []

    class Receiver:
        interrupts = True

        def receive(self, what, value):
            if value == 2 and self.interrupts:
                self.interrupts = False
                sink([(self, what, 3)])
                raise KeyboardInterrupt
            seen.append(value)

    receiver = Receiver()
    sink([(receiver, 0, 1), (receiver, 0, 2)])
    try:
        loop.run_until_complete(asyncio.sleep(0))
    except KeyboardInterrupt:
        time.sleep(2 * futures.OVERDUE)
        sink([(receiver, 0, 4)])
        loop.run_until_complete(asyncio.sleep(0.01))
        assert seen == [1, 2, 3, 4]
    receiver.interrupts = True
    sink([(receiver, 0, 2)])
    with contextlib.suppress(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0))
    gc.collect()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == [1, 2, 3, 4, 2, 3]
    loop.close()


def test_a_loop_that_is_closed_before_an_answer_comes_is_forgotten(bus, until):
    loop = asyncio.new_event_loop()

    async def begin():
        bus.call_async("aio_nap", 0.05)
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    time.sleep(0.2)  # it has come, and is not received
    loop.close()
    known = weakref.ref(loop)
    del loop
    until(lambda: gc.collect() >= 0 and known() is None)


@isthmus.export(executor="threads")
def aio_call(function):
    return function()


def test_a_result_that_no_future_takes_keeps_no_other_call_waiting(name):
    def end():
        raise StopIteration("mine")

    async def main():
        with isthmus.connect(name) as bus:
            calls = [bus.call_async("aio_call", end), *(bus.call_async("aio_plain", i) for i in range(3))]
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)  # all of them come together
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)

    with isthmus.Host(name):
        error, *rest = asyncio.run(main())
    assert isinstance(error, RuntimeError)
    assert rest == [0, 1, 2]


def test_a_web_server_hosts_in_its_own_loop(name):
    async def main():
        async def answer(request):
            return aiohttp.web.json_response(await asyncio.to_thread(bus.call, "aio_where"))

        app = aiohttp.web.Application()
        app.router.add_get("/", answer)
        runner = aiohttp.web.AppRunner(app)
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            await runner.setup()
            site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/") as response,
            ):
                assert (await response.json())[2] == id(asyncio.get_running_loop())
            await runner.cleanup()
            await asyncio.to_thread(bus.close)

    asyncio.run(main())


def test_a_host_that_stops_cancels_its_coroutines(name):
    ended = threading.Event()
    begun = threading.Event()

    @isthmus.export(name=f"{name}.forever")
    async def forever():
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    host = isthmus.Host(name)
    host.start()
    with isthmus.connect(name) as bus:
        call = bus.submit(f"{name}.forever")
        assert begun.wait(20)
        host.stop()
        assert ended.is_set()
        with pytest.raises(isthmus.Error):
            call.result(20)


def test_what_a_coroutine_leaves_behind_on_the_hosts_own_loop_is_cancelled(name):
    seen = []

    async def behind():
        try:
            seen.append("began")
            await asyncio.sleep(60)
        finally:
            seen.append("tidied up")

    @isthmus.export(name=f"{name}.leave")
    async def leave():
        seen.append(asyncio.ensure_future(behind()))
        await asyncio.sleep(0)

    with isthmus.Host(name), isthmus.connect(name) as bus:
        bus.call(f"{name}.leave")
    assert seen[1:] == ["began", "tidied up"]


def test_leaving_the_block_in_a_running_loop_cancels_its_coroutines(name):
    seen = []
    begun = threading.Event()

    @isthmus.export(name=f"{name}.forever")
    async def forever():
        try:
            seen.append("began")
            begun.set()
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    async def main():
        async with isthmus.Host(name):
            bus = await asyncio.to_thread(isthmus.connect, name)
            call = bus.submit(f"{name}.forever")
            assert await asyncio.to_thread(begun.wait, 20)
        assert seen == ["began", "ended"]
        with pytest.raises(isthmus.Error):
            await asyncio.to_thread(call.result, 20)
        await asyncio.to_thread(bus.close)

    asyncio.run(main())


def test_a_coroutine_calls_others_while_it_runs(name):
    async def main():
        async with isthmus.Host(name) as host:

            @isthmus.export(name=f"{name}.sum")
            async def sum_of(count):
                return sum(await asyncio.gather(*(bus.call_async("aio_plain", i) for i in range(count))))

            bus = await asyncio.to_thread(isthmus.connect, name)
            assert await bus.call_async(f"{name}.sum", 100) == 4950
            assert host.is_open
            await asyncio.to_thread(bus.close)

    asyncio.run(main())
