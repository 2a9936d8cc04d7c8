"""Calls whose functions run in other processes, wherever a ``concurrent.futures.Executor`` has them.

The executor carries a Job: the function, a small pickle of the arguments, and a token. Large buffers stay at
the Desk of the host; a worker that can join the bus fetches them there with the token, and leaves those of
its result, so that they go as handles. One that can't, on another machine, gets them with the pickle.
"""

from __future__ import annotations

import asyncio
import copyreg
import os
import pickle
import secrets
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary

from . import _isthmus, app
from .arrays import numpy_memory
from .caller import Bus
from .errors import Cancelled, Error, PeerLost, in_words
from .exports import registry
from .processes import Processes, processes
from .tasks import serving

__all__ = ["Offsite"]

LARGE = 32 << 10  # bytes from which a buffer stays at the desk
AT_ONCE = 1e-3  # seconds; what begins later asks whether it is still wanted
FAR_FOR = 60.0  # seconds for which an executor is remembered to have workers that can't join the bus
REFUSED_FOR = 5.0  # seconds for which a worker does not try again to join a bus


# --- what travels ------------------------------------------------------------------------------------------


class _Buffer:
    """Bytes that a pickle takes without a copy, where it can."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _Buffer, (pickle.PickleBuffer(self.data) if protocol >= 5 else bytes(self.data),)


class Parcel:
    """A pickled value, and its large buffers, which are not in the pickle; None: they are at the desk."""

    def __init__(self, stream: bytes, buffers: Sequence[_Buffer] | None = ()) -> None:
        self.stream = stream
        self.buffers = buffers

    @classmethod
    def of(cls, value: object) -> Parcel:
        """Raises what pickling raises."""
        try:
            return cls._of(value, _Pickler)
        except Exception:
            by_value = _cloudpickle()  # knows what comes from an app that is no module here
            if by_value is None:
                raise
            return cls._of(value, by_value.Pickler)

    @classmethod
    def _of(cls, value: object, pickler: Callable[..., Any]) -> Parcel:
        buffers: list[_Buffer] = []
        stream = BytesIO()
        pickler(stream, 5, buffer_callback=lambda buffer: _keep_if_large(buffer, buffers)).dump(value)
        return cls(stream.getvalue(), buffers)

    def open(self, buffers: Sequence[Any] | None = None) -> Any:
        """The value, over the memory of the buffers. Raises what unpickling raises."""
        if buffers is None:
            buffers = [buffer.data for buffer in self.buffers or ()]
        return pickle.loads(self.stream, buffers=buffers)


class _Pickler(pickle.Pickler):
    """Memoryviews travel too, as the bytes and other buffers that callers send are some."""

    dispatch_table: ChainMap[type, Any]


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    buffer = pickle.PickleBuffer(view if view.c_contiguous else view.tobytes())
    return _make_view, (buffer, view.format, view.shape)


_Pickler.dispatch_table = ChainMap({memoryview: _reduce_view}, copyreg.dispatch_table)


def _make_view(buffer: Any, code: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer).cast("B")
    return view if code == "B" and len(shape) == 1 else view.cast(code, shape)  # type: ignore[call-overload]


def _cloudpickle() -> Any:
    """The module, or Ray's, where one was imported, as clusters do."""
    return sys.modules.get("cloudpickle") or sys.modules.get("ray.cloudpickle")


def _keep_if_large(buffer: pickle.PickleBuffer, kept: list[_Buffer]) -> bool:
    data = buffer.raw()
    if data.nbytes < LARGE:
        return True
    kept.append(_Buffer(data))
    return False


# --- the host's side ---------------------------------------------------------------------------------------


class _Kept:
    """What the desk has of a call: arguments that wait for their worker, then what that has left."""

    def __init__(self, call: Callable[[], Any], buffers: Sequence[_Buffer]) -> None:
        self.call = call
        self.buffers = buffers
        self.result: Sequence[Any] = ()


class Desk:
    """Where calls that run elsewhere have their buffers. An export of Isthmus's own; only tokens open it."""

    def __init__(self) -> None:
        self.name = ""
        self._kept: dict[str, _Kept] = {}

    def open(self) -> None:
        """From now on it is found, under a name that no other process has."""
        if not self.name:
            self.name = f"isthmus.desk.{secrets.token_hex(8)}"
            registry.set(self.name, self)

    def keep(self, token: str, kept: _Kept) -> None:
        self._kept[token] = kept

    def kept(self, token: str) -> _Kept | None:
        return self._kept.get(token)

    def forget(self, token: str) -> None:
        self._kept.pop(token, None)

    def __call__(self, token: str, result: list[Any] | None = None) -> list[Any] | None:
        """The buffers of the arguments, or takes those of the result. None: the call is not waited for."""
        kept = self._kept.get(token)
        if kept is None:
            return None
        if result is None:
            return [buffer.data for buffer in kept.buffers]
        kept.result = result
        return []


desk = Desk()
_far: WeakKeyDictionary[Executor, float] = WeakKeyDictionary()


class Offsite:
    """Performs calls on an executor whose workers are, or may be, other processes."""

    def __init__(self, executor: str | Executor) -> None:
        self._executor = processes if isinstance(executor, str) else executor
        # These have the function found by its name, and lose a worker that does not find it.
        self._by_name = isinstance(self._executor, ProcessPoolExecutor | Processes)
        if self._executor is processes:
            processes.check()
        desk.open()

    async def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        name = getattr(function, "__name__", repr(function))
        carried = self._carried(function, name)
        try:
            parcel = Parcel.of((args, kwargs))
        except Exception as error:
            if not self._by_name:  # perhaps it has threads, and pickles nothing
                return await _outcome(self._executor.submit(function, *args, **kwargs), name)
            raise TypeError(
                f"the arguments of '{name}', which runs in another process, can't be pickled: {error}"
            ) from error
        desk.open()  # after a fork it is closed
        job = Job(name, carried, parcel, app.imported if self._by_name else None)
        desk.keep(job.token, _Kept(lambda: function(*args, **kwargs), parcel.buffers or ()))
        try:
            outcome = None
            bus = serving.get()
            if bus is not None and _far.get(self._executor, 0) < time.monotonic():
                outcome = await _outcome(self._executor.submit(job.over(bus)), name)
                if outcome is None:
                    _far[self._executor] = time.monotonic() + FAR_FOR
            if outcome is None:
                outcome = await _outcome(self._executor.submit(job), name)
            if not isinstance(outcome, Parcel):
                return outcome[0]
            kept = desk.kept(job.token)
            result = kept.result if outcome.buffers is None and kept is not None else None
        finally:
            desk.forget(job.token)
        return outcome.open(result)

    def _carried(self, function: Callable[..., Any], name: str) -> Callable[..., Any] | bytes:
        """The function as the executor is to carry it."""
        is_of_app = app.imported is not None and getattr(function, "__module__", None) == app.imported[1]
        by_value = _cloudpickle() if is_of_app else None
        try:
            if self._by_name:
                return pickle.dumps(function, 5)
            if by_value is None:
                return function
            # As of `python app.py`: on a cluster there is no module of this name.
            by_value.register_pickle_by_value(sys.modules[function.__module__])
            pickled: bytes = by_value.dumps(function)
            return pickled
        except Exception as error:
            raise TypeError(
                f"'{name}' can't run in another process, as it can't be pickled: {error}. "
                "Define it at the top level of a module, and let it use nothing that can't be pickled"
            ) from error


async def _outcome(future: Future[Any], name: str) -> Any:
    """What comes of it. Cancelled, it cancels what has not begun."""
    loop = asyncio.get_running_loop()
    settled = loop.create_future()
    future.add_done_callback(lambda _: _tell(loop, settled))
    try:
        await settled
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        raise PeerLost(
            f"the call of '{name}' was lost: its executor has cancelled it, as one does that "
            "has lost its cluster"
        )
    error = future.exception()
    if isinstance(error, BrokenExecutor):
        raise PeerLost(
            f"the call of '{name}' was lost: a worker process of its executor has died, which ends the calls "
            "of the others too"
        ) from error
    if error is not None:
        raise error
    return future.result()


def _tell(loop: asyncio.AbstractEventLoop, settled: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # it was closed, and nobody waits
        loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: asyncio.Future[None]) -> None:
    if not settled.done():
        settled.set_result(None)


# --- the worker's side -------------------------------------------------------------------------------------


class Job:
    """What an executor carries and a worker calls. Its result is None when the buffers can't be had there."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any] | bytes,
        arguments: Parcel,
        needs: tuple[str, str] | None,
    ) -> None:
        self.__name__ = name
        self.token = secrets.token_hex(16)
        self.desk = desk.name
        self.bus: str | None = None
        self.numpy_memory = False
        self.since = 0.0
        self.needs = needs
        self._function = function
        self._arguments = arguments

    def over(self, bus: _isthmus.Bus) -> Job:
        """The same for a worker that can join the bus."""
        job = object.__new__(Job)
        job.__dict__.update(self.__dict__)
        job.bus, job.numpy_memory, job.since = bus.name, bus.numpy_memory, time.monotonic()
        if self._arguments.buffers:
            job._arguments = Parcel(self._arguments.stream, None)
        return job

    def __dask_tokenize__(self) -> tuple[str, str | None]:
        """Names it for Dask, which does nothing again that has the same name."""
        return self.token, self.bus

    def __call__(self) -> Parcel | tuple[Any] | None:
        if self.desk == desk.name:  # a thread of the host's
            kept = desk.kept(self.token)
            if kept is None:
                raise self._given_up()
            return (kept.call(),)
        bus = None if self.bus is None else _joined(self.bus)
        buffers = None
        if self._arguments.buffers is None or time.monotonic() - self.since > AT_ONCE:
            buffers = self._ask(bus)
            if self._arguments.buffers is None and buffers is None:
                return None
        function, args, kwargs = self._opened(buffers or None)
        in_bus: AbstractContextManager[None] = nullcontext()
        if bus is not None and self.numpy_memory and "numpy" in sys.modules:
            in_bus = numpy_memory()
        with in_bus:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                if _is_portable(error):
                    raise
                raise in_words(error) from None
        del function, args, kwargs, buffers
        return self._sent(result, bus)

    def _ask(self, bus: Bus | None) -> list[Any] | None:
        """The buffers at the desk; None where it can't be reached. Raises Cancelled when it has forgotten."""
        try:
            buffers = [] if bus is None else bus.call(self.desk, self.token)
        except Error:  # its host takes no more calls, or this is a bus of the same name elsewhere
            return None
        if buffers is None:
            raise self._given_up()
        return None if bus is None else list(buffers)

    def _given_up(self) -> Cancelled:
        return Cancelled(f"the call of '{self.__name__}' was given up before it began")

    def _opened(self, buffers: Sequence[Any] | None) -> tuple[Callable[..., Any], Any, Any]:
        try:
            if self.needs is not None:
                app.import_again(*self.needs)
            function = self._function
            called = pickle.loads(function) if isinstance(function, bytes) else function
            args, kwargs = self._arguments.open(buffers)
        except BaseException as error:
            what = f"'{self.__name__}' or its arguments can't be loaded in a worker: {error!r}"
            failure = ImportError(what)
            failure.__cause__ = error
            raise in_words(failure) from None
        return called, args, kwargs

    def _sent(self, result: Any, bus: Bus | None) -> Parcel:
        try:
            parcel = Parcel.of(result)
        except Exception as error:
            raise TypeError(
                f"the result of '{self.__name__}', which ran in another process, can't be pickled: {error}"
            ) from error
        if parcel.buffers and bus is not None:
            with suppress(Error):  # as in _ask, or there is no room in the bus
                bus.call(self.desk, self.token, [buffer.data for buffer in parcel.buffers])
                return Parcel(parcel.stream, None)
        return parcel


_lock = threading.Lock()
_buses: dict[str, Bus] = {}
_refused: dict[str, float] = {}


def _joined(name: str) -> Bus | None:
    """This process's place on the bus, joined once; None where there is none to be had."""
    with _lock:
        bus = _buses.get(name)
        if bus is not None and bus.is_open:
            return bus
        if _refused.get(name, 0) > time.monotonic():
            return None
        try:
            bus = _buses[name] = Bus(name)
        except Error:
            _refused[name] = time.monotonic() + REFUSED_FOR
            return None
        return bus


def _in_child() -> None:
    """What was joined and kept before a fork is the parent's."""
    global _lock
    _lock = threading.Lock()
    _buses.clear()
    _refused.clear()
    desk.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_in_child)


def _is_portable(error: BaseException) -> bool:
    """Whether the executor can bring it home; what would end a worker is not."""
    try:
        return isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False
