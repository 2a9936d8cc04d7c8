"""What a host and a caller have in common: one peer on a bus, with a dispatcher thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import _isthmus
from .proxies import proxy_of
from .remote import Operator
from .tasks import Tasks

__all__ = ["Peer", "default_name", "program", "running_loop"]

_open: weakref.WeakSet[Peer] = weakref.WeakSet()


def program() -> str:
    """What this program is called, for people who look at the bus."""
    main = sys.modules.get("__main__")
    is_command_line = getattr(main, "__package__", None) == "isthmus"
    file = None if is_command_line else getattr(main, "__file__", None)
    return Path(file or (sys.argv[0] if sys.argv else "")).name or "python"


def default_name() -> str:
    """The name of a bus that was given none: the program's file without its ending."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(program()).stem)
    return stem.lstrip(".") or "isthmus"


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    return asyncio._get_running_loop()


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of sockets. In the main thread, signals write to the second: a lock that is waited for misses
    those that come just before.
    """
    woken, wake = socket.socketpair()
    with woken, wake:
        woken.setblocking(False)
        wake.setblocking(False)
        try:
            before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        except ValueError:  # another thread, or a sub-interpreter: signals are handled elsewhere
            yield woken, wake
            return
        try:
            yield woken, wake
        finally:
            signal.set_wakeup_fd(before)


class Peer:
    """A native Bus, the thread that it lives on, and what runs on an event loop for it."""

    def __init__(
        self,
        name: str,
        exports: _isthmus.Exports | None,
        at_end: Callable[[], object] | None = None,
        *,
        allow: frozenset[str] = frozenset(),
        loop: asyncio.AbstractEventLoop | None = None,
        numpy_memory: bool = True,
        pickle: bool = False,
        worker: int = 0,
        wait: float = 0,
        system: bool = False,
        onlooker: bool = False,
        label: str | None = None,
    ) -> None:
        self._bus = _isthmus.Bus(
            name, exports, label or program(), numpy_memory, pickle, worker, wait, system, onlooker
        )
        self._bus.operator = Operator(name, allow)
        self._bus.reference_factory = proxy_of
        self.tasks = Tasks(self._bus, name, loop)
        self._joined = threading.Event()
        self._has_left = False
        self._waiter: socket.socket | None = None
        self._failure: BaseException | None = None
        self._at_end = at_end
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"isthmus-{name}", daemon=False)

    def start(self) -> None:
        """Joins the bus. Raises what went wrong."""
        _open.add(self)
        try:
            self._thread.start()
            self._joined.wait()
        except BaseException:  # Ctrl-C: the process is not to wait for this peer
            self._bus.stop()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Leaves, once what runs has finished. Waits for that, unless this peer's own export calls it."""
        if self._pid != os.getpid():
            return
        self._bus.stop()
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join()
            self.tasks.join()
            _open.discard(self)

    @property
    def is_here(self) -> bool:
        """Whether it is this peer's own thread that asks, which all answers come by."""
        return threading.current_thread() is self._thread

    def request_stop(self) -> None:
        """Like stop, without waiting; a signal handler may call it."""
        self._bus.stop()

    def drain(self) -> None:
        """Stops once the calls that were made have been answered; no more are taken. Does not wait."""
        self._bus.drain()

    def wait(self) -> None:
        """Returns once the peer has left. Signal handlers run meanwhile."""
        with _woken_by_signals() as (woken, wake):
            self._waiter = wake
            while not self._has_left and self._thread.is_alive():
                select.select([woken], [], [], 0.5)
                with contextlib.suppress(BlockingIOError):
                    woken.recv(64)
        self._thread.join()
        self.tasks.join()
        _open.discard(self)
        if self._failure is not None:
            raise self._failure

    @property
    def is_open(self) -> bool:
        return self._bus.is_open

    @property
    def was_lost(self) -> bool:
        return self._bus.was_lost

    @property
    def native(self) -> _isthmus.Bus:
        return self._bus

    def stats(self) -> dict[str, Any]:
        return self._bus.stats()

    def _run(self) -> None:
        try:
            self._bus.run(self._joined.set)
        except BaseException as failure:
            self._failure = failure
        self.tasks.end()
        if self._at_end is not None:
            self._at_end()
        self._joined.set()
        self._has_left = True
        if self._waiter is not None:
            with contextlib.suppress(OSError):  # it waits no more
                self._waiter.send(b"\0")


def _stop_all() -> None:
    for peer in list(_open):
        peer.stop()


# Before the interpreter waits for its threads, which atexit is too late for.
_register: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_stop_all)
