"""The pool of processes of executor="processes"."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from . import _isthmus

__all__ = ["Processes", "processes"]

MOST = 32  # each takes a place on the bus, of which there are 64


class Processes(Executor):
    """As many processes as this one has processors, started as they are needed; new ones when one has died.

    They are spawned, as the host has threads, and end when the host does, however that happens.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._line: Connection | None = None

    def check(self) -> None:
        """Raises RuntimeError where there can't be any."""
        try:
            threading.Thread(daemon=True)
        except RuntimeError:
            raise RuntimeError(
                "executor='processes' can't be had in sub-interpreters: use --worker-kind process"
            ) from None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            try:
                return self._begun().submit(function, *args, **kwargs)
            except BrokenExecutor:  # one has died since: nothing was submitted
                self._end()
                return self._begun().submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes at once, with what they are doing."""
        with self._lock:
            self._end()

    def _begun(self) -> ProcessPoolExecutor:
        if self._pool is None:
            theirs, self._line = multiprocessing.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                min(_processors(), MOST),
                multiprocessing.get_context("spawn"),
                _begin_worker,
                (theirs,),
            )
        return self._pool

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        line, self._line = self._line, None
        if line is not None:
            line.close()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _begin_worker(line: Connection) -> None:
    """In the process: SIGINT of the terminal is for the host, whose end hangs up the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _isthmus.watch_parent(os.dup(line.fileno()))


processes = Processes()
_of_parents: list[ProcessPoolExecutor | None] = []


def _in_child() -> None:
    """After a fork: the pool is the parent's, so it is not collected, and its line is not kept open here."""
    _of_parents.append(processes._pool)
    if processes._line is not None:
        processes._line.close()
    processes.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_in_child)
# After the import of concurrent.futures.process, which waits for the pool: before that, it is ended.
_register: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(processes.shutdown)
