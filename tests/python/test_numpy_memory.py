"""numpy allocates in the bus: results are handed over as they lie, and live while anyone looks at them."""

import contextlib
import gc
import os
import queue
import subprocess
import textwrap
import threading

import numpy as np
import pytest

import isthmus

LARGE = 1 << 20
SMALL = 1 << 10

APP = """
    import asyncio, gc, threading
    import numpy as np
    import isthmus

    kept = {}

    @isthmus.export
    def double(x): return x * 2

    @isthmus.export
    def ones(size): return np.ones(size, "uint8")

    @isthmus.export
    def zeros(size): return np.zeros(size, "uint8")

    @isthmus.export
    def grown(size):
        x = np.arange(size // 2, dtype="uint8")
        x.resize(size, refcheck=False)
        return x

    @isthmus.export
    def grown_from_little(size):
        x = np.full(1, 7, "uint8")
        for end in (100, size // 2, size):
            x.resize(end, refcheck=False)
        assert x[0] == 7 and not x[1:].any()
        return x

    @isthmus.export
    def resized(size): return np.resize(np.arange(10, dtype="uint8"), size)

    @isthmus.export
    def shrunk(size):
        x = np.ones(4 * size, "uint8")
        x.resize(size, refcheck=False)
        return x

    @isthmus.export
    async def in_a_coroutine(size): return np.ones(size, "uint8")

    @isthmus.export
    async def in_a_thread(size): return await asyncio.to_thread(np.ones, size, "uint8")

    @isthmus.export
    def on_a_thread_of_its_own(size):
        made = []
        thread = threading.Thread(target=lambda: made.append(np.ones(size, "uint8")))
        thread.start()
        thread.join()
        return made.pop()

    @isthmus.export
    def views(size):
        x = np.arange(size, dtype="uint8").reshape(-1, 64)
        return [x[1:], x[:, ::2], x.T, x]

    @isthmus.export
    def keep(name, size): kept[name] = np.full(size, 7, "uint8")

    @isthmus.export
    def kept_one(name): return kept[name]

    @isthmus.export
    def drop_elsewhere(name):
        array = kept.pop(name)
        thread = threading.Thread(target=lambda gone: gone.clear(), args=([array],))
        del array
        thread.start()
        thread.join()
        gc.collect()

    @isthmus.export
    def privately(size):
        with isthmus.numpy_memory(False):
            return np.ones(size, "uint8")
"""


@pytest.fixture
def bus(serve, name):
    serve(APP).ready()
    with isthmus.connect(name) as bus:
        yield bus


def copied(bus, call):
    """What the host copied into the bus for a call's result."""
    bus.call("ones", SMALL)
    before = bus.stats()["host"]["bytes_copied"]
    result = call()
    return result, bus.stats()["host"]["bytes_copied"] - before


@pytest.mark.parametrize(
    "export",
    ["ones", "zeros", "grown", "grown_from_little", "resized", "shrunk", "in_a_coroutine", "in_a_thread"],
)
def test_a_large_result_is_not_copied(bus, export):
    result, bytes_copied = copied(bus, lambda: bus.call(export, LARGE))
    assert len(result) == LARGE
    assert bytes_copied == 0


def test_what_is_computed_from_an_argument_is_not_copied(bus):
    x = isthmus.empty(LARGE // 8)
    x[:] = 3
    result, bytes_copied = copied(bus, lambda: bus.call("double", x))
    assert (result == 6).all()
    assert bytes_copied == 0


def test_views_travel_from_where_they_lie(bus):
    (rows, gaps, turned, whole), bytes_copied = copied(bus, lambda: bus.call("views", LARGE))
    expected = np.arange(LARGE, dtype="int64").astype("uint8").reshape(-1, 64)
    assert np.array_equal(rows, expected[1:])
    assert np.array_equal(gaps, expected[:, ::2])
    assert np.array_equal(turned, expected.T)
    assert np.array_equal(whole, expected)
    assert bytes_copied == 0


def test_zeros_are_zeros_also_in_memory_that_was_used_before(bus):
    for _ in range(20):
        assert (bus.call("ones", LARGE) == 1).all()
        assert not bus.call("zeros", LARGE).any()


def test_an_array_that_outlives_its_call_keeps_its_bytes(bus):
    bus.call("keep", "a", LARGE)
    for _ in range(20):
        bus.call("ones", LARGE)
    assert (bus.call("kept_one", "a") == 7).all()


def test_an_array_may_be_freed_on_another_thread_while_its_reader_looks(bus):
    bus.call("keep", "a", LARGE)
    seen = bus.call("kept_one", "a")
    bus.call("drop_elsewhere", "a")
    for _ in range(20):
        bus.call("ones", LARGE)
    assert (seen == 7).all()


def test_memory_is_used_again_once_nobody_looks(bus):
    for _ in range(300):
        bus.call("ones", 16 * LARGE)
    gc.collect()
    assert bus.stats()["host"]["chunks_taken"] - bus.stats()["host"]["chunks_returned"] < 64 * 16


def test_an_export_can_do_without(bus):
    _, bytes_copied = copied(bus, lambda: bus.call("privately", LARGE))
    assert bytes_copied == LARGE


def test_a_thread_that_an_export_starts_allocates_as_ever(bus):
    _, bytes_copied = copied(bus, lambda: bus.call("on_a_thread_of_its_own", LARGE))
    assert bytes_copied == LARGE


def test_a_host_can_do_without(serve, name):
    serve(APP, "--no-numpy-memory").ready()
    with isthmus.connect(name) as bus:
        for export in ("ones", "in_a_coroutine"):
            assert copied(bus, lambda export=export: bus.call(export, LARGE))[1] == LARGE


def test_a_host_of_ones_own_program_can_do_without(name):
    @isthmus.export(name="nm_ones")
    def ones(size):
        return np.ones(size, "uint8")

    for numpy_memory, expected in ((True, 0), (False, LARGE)):
        with isthmus.Host(name, numpy_memory=numpy_memory) as host, isthmus.connect(name) as bus:
            bus.call("nm_ones", SMALL)
            before = host.stats()["self"]["bytes_copied"]
            assert bus.call("nm_ones", LARGE).all()
            assert host.stats()["self"]["bytes_copied"] - before == expected


def test_arrays_can_be_prepared_ahead(bus):
    with isthmus.numpy_memory():
        ahead = np.arange(LARGE, dtype="uint8")
    before = bus.stats()["self"]["bytes_copied"]
    bus.call("double", ahead)
    assert bus.stats()["self"]["bytes_copied"] == before
    bus.call("double", np.arange(LARGE, dtype="uint8"))
    assert bus.stats()["self"]["bytes_copied"] == before + LARGE


def test_another_thread_is_not_concerned(bus):
    before = bus.stats()["self"]["bytes_copied"]
    arrays = []
    with isthmus.numpy_memory():
        thread = threading.Thread(target=lambda: arrays.append(np.ones(LARGE, "uint8")))
        thread.start()
        thread.join()
    bus.call("double", arrays[0])
    assert bus.stats()["self"]["bytes_copied"] == before + LARGE


def test_threads_make_grow_and_free_arrays_of_one_another(bus):
    """Each array is made by one thread, grown by the next and freed by a third."""
    made, grown = queue.Queue(32), queue.Queue(32)
    rounds, threads = 400, 3

    def make(seed):
        with isthmus.numpy_memory():
            for i in range(rounds):
                value = (seed * rounds + i) % 251
                made.put((value, np.full(40_000 + i * 101, value, "uint8")))

    def grow():
        while (one := made.get()) is not None:
            value, array = one
            array.resize(len(array) * 2, refcheck=False)
            grown.put((value, array))

    wrong = []

    def check():
        while (one := grown.get()) is not None:
            value, array = one
            half = len(array) // 2
            if not ((array[:half] == value).all() and not array[half:].any()):
                wrong.append(value)

    def run(works):
        running = [threading.Thread(target=work, args=args) for work, *args in works]
        for thread in running:
            thread.start()
        return running

    makers = run([(make, seed) for seed in range(threads)])
    growers = run([(grow,)] * threads)
    checkers = run([(check,)] * threads)
    for line, stage in ((made, makers), (grown, growers), (None, checkers)):
        for thread in stage:
            thread.join()
        if line is not None:
            for _ in range(threads):
                line.put(None)
    assert wrong == []
    stats = bus.stats()["self"]
    assert stats["chunks_taken"] - stats["chunks_returned"] < 200


AT_ONCE = """
    import threading
    import numpy as np
    import isthmus

    kept, all_here = {}, threading.Barrier(4)

    @isthmus.export(executor="threads")
    def work(seed, size):
        all_here.wait()
        fresh = np.zeros(size // 2, "uint8")
        assert not fresh.any()
        fresh += seed
        fresh.resize(size, refcheck=False)
        fresh[size // 2:] = seed
        another = kept.pop((seed + 1) % 4, None)  # made by another thread, and dropped by this one
        whole = another is None or bool((another == another[0]).all())
        kept[seed] = fresh
        return whole, fresh
"""


def test_threads_of_a_host_make_grow_and_free_arrays_at_once(serve, name):
    serve(AT_ONCE).ready()
    wrong, last = [], {}
    with isthmus.connect(name) as bus:
        for first in [bus.submit("work", seed, SMALL) for seed in range(4)]:
            first.result()
        before = bus.stats()["host"]["bytes_copied"]

        def call(seed):
            for i in range(100):
                size = (LARGE >> i % 4) + 64 * i
                whole, array = bus.call("work", seed, size)
                if not (whole and len(array) == size and (array == seed).all()):
                    wrong.append((seed, i))
                last[seed] = array

        callers = [threading.Thread(target=call, args=[seed]) for seed in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert wrong == []
        stats = bus.stats()
        assert stats["host"]["bytes_copied"] == before
        assert stats["memory"]["leased"] <= 16 * LARGE  # what is kept there, and the last that came here
    for seed, array in last.items():
        assert (array == seed).all()


def test_what_is_sent_while_the_bus_is_left_does_not_reach_who_has_the_memory_next(bus, until):
    array = np.ones(64 * LARGE, "uint8")

    def send(left):
        with contextlib.suppress(isthmus.Error):
            left.call("double", array)

    for _ in range(6):
        with isthmus.connect(bus.name) as left:
            sender = threading.Thread(target=send, args=[left])
            sender.start()
            until(lambda left=left: left.stats()["self"]["chunks_taken"] > 0)
        bus.call("keep", "a", array.size)
        sender.join()
        assert (bus.call("kept_one", "a") == 7).all()


FAILING_MALLOC = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stddef.h>

    static __thread size_t most = 0, failed = 0;
    void fail_up_to(size_t bytes) { most = bytes; }
    size_t failures(void) { return failed; }

    void* malloc(size_t bytes) {
        static void* (*real)(size_t);
        if (!real) real = (void* (*)(size_t))dlsym(RTLD_NEXT, "malloc");
        if (bytes >= 48 && bytes <= most) return ++failed, NULL;
        return real(bytes);
    }
"""


def test_where_the_accounts_find_no_memory_numpy_allocates_elsewhere(serve, name, tmp_path, run, monkeypatch):
    source, library = tmp_path / "malloc.c", tmp_path / "malloc.so"
    source.write_text(textwrap.dedent(FAILING_MALLOC))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    serve(APP).ready()
    monkeypatch.setenv("LD_PRELOAD", str(library))
    done = run(
        """
        import ctypes, sys
        import numpy as np, isthmus

        failing = ctypes.CDLL(sys.argv[2])
        failing.failures.restype = ctypes.c_size_t
        with isthmus.connect(sys.argv[1]) as bus, isthmus.numpy_memory():
            kept = [np.ones(1 << 20, "uint8") for _ in range(10)]
            for _ in range(40):
                failing.fail_up_to(1 << 14)
                try:
                    kept.append(np.ones(1 << 20, "uint8"))
                except MemoryError:
                    pass
                failing.fail_up_to(0)
            assert failing.failures() > 0
            before = bus.stats()["self"]["bytes_copied"]
            assert sum(int(bus.call("double", x)[0]) for x in kept) == 2 * len(kept)
            assert bus.stats()["self"]["bytes_copied"] > before, "none was allocated elsewhere"
        """,
        name,
        str(library),
    )
    assert done.returncode == 0, done.stderr


def test_arrays_outlive_the_bus_they_were_made_in(serve, name):
    serve(APP).ready()
    with isthmus.connect(name) as bus:
        bus.call("ones", SMALL)
        with isthmus.numpy_memory():
            arrays = [np.full(LARGE, i, "uint8") for i in range(20)]
            arrays[1].resize(2 * LARGE, refcheck=False)
    for i, array in enumerate(arrays):
        assert (array[:LARGE] == i).all()
        array += 1
    arrays[2].resize(3 * LARGE, refcheck=False)
    del arrays
    with isthmus.numpy_memory():
        assert np.ones(LARGE).sum() == LARGE


def test_what_another_thread_writes_while_the_bus_is_left_is_kept(serve, name):
    serve(APP).ready()
    size = 8 << 20
    for _ in range(3):
        with isthmus.connect(name) as bus:
            bus.call("ones", SMALL)
            with isthmus.numpy_memory():
                array = np.zeros(size, "int64")
            begun, done = threading.Event(), threading.Event()
            written = [0]

            def write(array=array, begun=begun, done=done, written=written):
                step = 1024
                for number in range(1, 1 << 30):
                    at = number * step % size
                    array[at : at + step] = number
                    written[0] = number
                    begun.set()
                    if done.is_set():
                        return

            writer = threading.Thread(target=write)
            writer.start()
            begun.wait()
            bus.close()
            done.set()
            writer.join()
        last = written[0]
        rounds = size // 1024
        for number in range(max(1, last - rounds + 1), last + 1):
            at = number * 1024 % size
            assert (array[at : at + 1024] == number).all()


def test_without_a_bus_numpy_allocates_as_ever(run):
    done = run("""
        import numpy as np, isthmus
        with isthmus.numpy_memory():
            x = np.ones(1 << 20)
            x.resize(1 << 21, refcheck=False)
        assert x.sum() == 1 << 20
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_frees_what_the_parent_made_and_harms_nothing(bus):
    with isthmus.numpy_memory():
        arrays = [np.full(LARGE, 5, "uint8") for _ in range(4)]
    child = os.fork()
    if child == 0:
        fine = all((array == 5).all() for array in arrays)
        arrays.clear()
        gc.collect()
        os._exit(0 if fine and np.ones(LARGE).sum() == LARGE else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all((array == 5).all() for array in arrays)


def test_when_the_bus_is_full_numpy_allocates_elsewhere(serve, name):
    serve(APP, "--memory", "8MiB").ready()
    with isthmus.connect(name) as bus:
        bus.call("ones", SMALL)
        for i in range(12):
            bus.call("keep", str(i), LARGE)
        assert bus.call("ones", SMALL).sum() == SMALL
