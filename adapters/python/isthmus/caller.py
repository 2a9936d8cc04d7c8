"""Calling what other peers export."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from .peer import Peer

__all__ = ["Bus", "connect"]


class Bus:
    """A place on a bus, for calling what its hosts export. Made by ``connect``; any thread may use it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._peer = Peer(name, None)
        self._peer.start()

    def call(self, name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Calls an export, waits for its result and returns it. The GIL is free while it waits.

        Positional and named arguments travel as the documentation's table has it; arrays in bus memory
        (``isthmus.empty``) without a copy. ``timeout`` is in seconds.

        Raises isthmus.PythonError for what the export raised, NotExported, TimeoutError, EncodeError for an
        argument that can't travel, PeerLost when the host goes meanwhile, BusFull when memory runs out.
        """
        return self._peer.native.call(name, args, kwargs, timeout)

    def stats(self) -> dict[str, Any]:
        """Counters of this peer and of the host, which only grow: ``{"self": {...}, "host": ...}``."""
        return self._peer.stats()

    def close(self) -> None:
        """Leaves the bus; calls in flight raise PeerLost. Arrays that came over it keep their contents."""
        self._peer.stop()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._peer.is_open

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(name: str) -> Bus:
    """Joins the bus of this name, which `python -m isthmus serve` or ``isthmus.serve`` serves.

    Raises isthmus.ConnectError, which says what to run, when there is none.
    """
    return Bus(name)
