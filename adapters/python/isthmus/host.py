"""Serving exports."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from . import _isthmus
from .caller import Caller
from .errors import Error
from .exports import registry
from .keeper import Keeper, own_starters, start_own, starter
from .peer import Peer, default_name, running_loop
from .remote import allowed_modules

__all__ = ["Host", "parse_memory", "serve"]

log = logging.getLogger("isthmus")

_units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_memory(memory: int | str) -> int:
    """Bytes from a number, or from a text such as ``"512MiB"`` or ``"2G"``. Units are powers of 1024."""
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+)\s*([KMGT]?)(?:i?B)?\s*", memory, re.IGNORECASE)
        if found is None:
            raise ValueError(f"'{memory}' is no amount of memory: write it like 512MiB or 2GiB")
        memory = int(found[1]) * _units[found[2].upper()]
    if not 0 < memory < 1 << 46:
        raise ValueError(f"a bus can't have {memory} bytes of memory")
    return memory


class Host(Caller):
    """Serves what was exported, from a thread of its own, until it is stopped, and calls what others export.

    ``name`` is the bus that callers connect to, by default the program's file name without its ending.
    ``memory`` is how much the arrays on the bus may take, as bytes or a text like ``"512MiB"``; pages are
    taken from the system as they are used. ``quota`` is how much of it one peer may own, so that one that
    hoards does not starve the others; by default three quarters.

    ``allow`` names the modules that callers may import as remote objects, with all that can be reached from
    them: ``["numpy"]``, or ``["*"]`` for every module; by default none. Whoever may import ``os`` or ``sys``
    can do what this process can. Without ``"*"`` objects that exports return don't show what leads out of
    them: their class, globals, frames, modules.

    ``numpy_memory`` says whether arrays that exports make with numpy lie in the memory of the bus from 32 KiB
    on, so that results are not copied; ``isthmus.numpy_memory`` decides it for a part of an export.

    ``pickle`` lets callers that ask for it too (``isthmus.connect(…, pickle=True)``) send and get what has no
    value form as a pickle; the others are served as ever. Any process of this user can run code in this one
    then.

    ``join`` serves beside others on a bus that is being served already, as one more service, or as a
    ``worker`` of one: the workers of a service export the same, and have numbers from 0 on.

    ``with isthmus.Host("vision"):`` serves for as long as the block runs. ``async with`` does the same inside
    a running asyncio loop, which it never blocks, and ``async def`` exports are tasks of that loop; else they
    run on a loop in a thread of their own, uvloop's where that is installed. ``start`` and ``stop`` do it by
    hand. Exports may be added while it serves. A Host serves once; make another to serve again. Any thread
    may call any method.

    Raises isthmus.ConnectError when the bus can't be served, as when another process serves one of that name.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        memory: int | str = "2GiB",
        quota: int | str | None = None,
        allow: str | Iterable[str] | None = None,
        numpy_memory: bool = True,
        pickle: bool = False,
        join: bool = False,
        worker: int = 0,
    ) -> None:
        self.name = name if name is not None else default_name()
        self._memory = parse_memory(memory)
        self._quota = 0 if quota is None else parse_memory(quota)
        self._allow = allowed_modules(allow)
        self._numpy_memory = numpy_memory
        self._pickle = pickle
        self._join = join
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broker: _isthmus.Broker | None = None
        self._peer: Peer | None = None
        self._serves = False
        self._keeper: Keeper | None = None
        self._lock = threading.Lock()
        self._keeping = threading.Lock()  # guards _keeper

    def start(self) -> None:
        """Creates the bus, or joins it, and begins to serve. Returns once callers can connect."""
        with self._lock:
            if self._peer is not None:
                raise Error(f"the host of '{self.name}' was started already")
            if not self._join:
                self._broker = _isthmus.Broker(self.name, self._memory, 0, self._quota)
                own_starters[self.name] = self._start_keeper
                registry.set(starter(self.name), functools.partial(start_own, self.name))
            self._peer = Peer(
                self.name,
                registry,
                self._end,
                allow=self._allow,
                loop=self._loop,
                numpy_memory=self._numpy_memory,
                pickle=self._pickle,
                worker=self._worker,
            )
            self._peer.start()
            self._serves = True
        log.info("serving '%s' with %d exports", self.name, len(registry.names()))

    def stop(self) -> None:
        """Ends the bus, or leaves it: the call that runs is finished, coroutines are cancelled, the rest is
        refused."""
        if self._peer is not None:
            self._peer.stop()

    def drain(self) -> None:
        """Takes no more calls, and stops once those that were made have been answered. Does not wait.

        Callers go on with another worker or service that exports the same, without losing a call.
        """
        if self._peer is not None:
            self._peer.drain()

    def wait(self) -> None:
        """Blocks until the host is stopped, by ``stop`` or otherwise. Signal handlers run meanwhile."""
        if self._peer is not None:
            self._peer.wait()

    def stats(self) -> dict[str, Any]:
        """This host's counters and the memory's shares; see ``Bus.stats``. Self and host are the same."""
        return self._started().stats()

    def _started(self) -> Peer:
        if self._peer is None:
            raise Error(f"the host of '{self.name}' was not started")
        return self._peer

    @property
    def is_open(self) -> bool:
        """Whether it serves."""
        return self._peer is not None and self._peer.is_open

    def _start_keeper(self) -> None:
        with self._keeping:
            if self._keeper is None:
                keeper = Keeper(self.name)
                keeper.start()
                self._keeper = keeper

    def _end(self) -> None:
        """On the dispatcher's thread, however it ended."""
        with self._keeping:
            keeper = self._keeper
        if keeper is not None:
            keeper.stop()
        if self._broker is not None:
            own_starters.pop(self.name, None)
            self._broker.close()
        if self._serves:
            log.info("stopped serving '%s'", self.name)

    def _request_stop(self) -> None:
        if self._peer is not None:
            self._peer.request_stop()

    def _abandon(self) -> None:
        """What a second Ctrl-C does: nothing is waited for, and nothing stays behind."""
        if self._broker is not None:
            self._broker.close()

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Host:
        self._loop = running_loop()
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
        await self._started().tasks.cancel_all()


@contextmanager
def stopped_by_signals(host: Host, has_parent: bool = False) -> Iterator[None]:
    """In the main thread: SIGINT and SIGTERM stop the host in good order, and a second one at once.

    With a parent that ends it, SIGINT is the parent's: the terminal sends it to both.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            host._abandon()
            os._exit(128 + number)
        asked = True
        host._request_stop()

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, handle)}
    before[signal.SIGINT] = signal.signal(
        signal.SIGINT, (lambda number, frame: None) if has_parent else handle
    )
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_being_spawned() -> bool:
    """Whether multiprocessing imports the program in a process that it has started."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and getattr(processes.current_process(), "_inheriting", False)


loading = False  # while the command line imports the app


def serve(
    name: str | None = None,
    *,
    memory: int | str = "2GiB",
    quota: int | str | None = None,
    allow: str | Iterable[str] | None = None,
    numpy_memory: bool = True,
    pickle: bool = False,
    join: bool = False,
) -> None:
    """Serves what was exported and blocks until the host is stopped, by Ctrl-C or SIGTERM in the main thread.

    Both let the call that runs finish and leave nothing behind; a second one ends the process at once.
    Arguments and errors are those of ``Host``.
    """
    if loading or _is_being_spawned():
        raise Error(
            "the app calls isthmus.serve() itself, also where it is imported, as by the processes that its "
            "exports run in: put the call under `if __name__ == '__main__':`, or run it with `python app.py`"
        )
    host = Host(
        name,
        memory=memory,
        quota=quota,
        allow=allow,
        numpy_memory=numpy_memory,
        pickle=pickle,
        join=join,
    )
    with stopped_by_signals(host):
        host.start()
        try:
            host.wait()
        finally:
            host.stop()
