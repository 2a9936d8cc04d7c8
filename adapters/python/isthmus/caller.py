"""Calling what other peers export."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

from . import _isthmus, futures
from .access import Access
from .errors import ConnectError
from .peer import Peer, running_loop
from .proxies import RemoteObject
from .queues import Queue
from .rules import check_name, seconds
from .streams import Stream
from .topics import Topic

__all__ = ["Bus", "Caller", "connect"]

_making_access = threading.Lock()


class Caller(ABC):
    """The verbs that a Bus and a Host share. Any thread may use them."""

    _sticky = False

    name: str

    @abstractmethod
    def _started(self) -> Peer: ...

    def _native(self) -> _isthmus.Bus:
        return self._started().native

    def _target(self, name: str, sticky: str | bool | None) -> _isthmus.Target:
        wanted = self._sticky if sticky is None else sticky
        return name if wanted is False else (name, wanted)

    def call(
        self,
        name: str,
        /,
        *args: Any,
        timeout: float | None = None,
        sticky: str | bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Calls an export, waits for its result and returns it. The GIL is free while it waits.

        Positional and named arguments travel as the documentation's table has it; arrays in bus memory
        (``isthmus.empty``) without a copy, and what has no value form, such as a function, as an object that
        the other side can call and use from there. ``timeout`` is in seconds.

        Where several workers or services export the name, the one with the least to do is called. ``sticky``
        keeps to one as long as it takes calls: ``True`` all such calls of this caller, a text all calls with
        this key, whoever makes them.

        Raises isthmus.PythonError or JsError for what the export raised, NotExported, TimeoutError,
        EncodeError for an argument that can't travel, Cancelled, PeerLost when the other side goes meanwhile,
        BusFull when memory runs out.
        """
        return self._native().call(self._target(name, sticky), args, kwargs, timeout)

    def submit(
        self,
        name: str,
        /,
        *args: Any,
        timeout: float | None = None,
        sticky: str | bool | None = None,
        **kwargs: Any,
    ) -> concurrent.futures.Future[Any]:
        """Begins a call and returns a Future, which gets what ``call`` returns or raises.

        Its ``cancel`` reaches the other side: what has not begun there never runs. Callbacks that are added
        to it run on a thread of Isthmus, and should be quick.
        """
        return futures.submit(self._native(), self._target(name, sticky), args, kwargs, timeout)

    def call_async(
        self,
        name: str,
        /,
        *args: Any,
        timeout: float | None = None,
        sticky: str | bool | None = None,
        **kwargs: Any,
    ) -> Awaitable[Any]:
        """Begins a call, to be awaited in the running event loop, which is not blocked.

        Cancelling the task that awaits it cancels the call.
        """
        return futures.begin(self._native(), self._target(name, sticky), args, kwargs, timeout)

    def stream(
        self,
        name: str,
        /,
        *args: Any,
        timeout: float | None = None,
        sticky: str | bool | None = None,
        **kwargs: Any,
    ) -> Stream:
        """The items of a generator or async iterable that is exported, for ``for`` or ``async for``."""
        return Stream(self._native(), self._target(name, sticky), args, kwargs, timeout)

    def import_module(self, name: str) -> RemoteObject:
        """A module of the host as a remote object, where the host allows it (``--allow``, ``allow=``)."""
        module: RemoteObject = self._native().call(("operate", name, []), (), {}, None)
        return module

    def queue(
        self, name: str, *, depth: int | None = None, prefetch: int = 1, deliveries: int | None = None
    ) -> Queue:
        """A queue of this bus: each message goes to one consumer, and is kept until that acknowledges it.

        It is there when it is first used. ``depth`` is how many messages it keeps, those that consumers hold
        among them (256): puts beyond that wait. A message that was given out ``deliveries`` times (5) and
        never acknowledged goes to the queue ``<name>.dead``. Both are decided by the first who names them; to
        name another one later is an error of the operation that does. ``prefetch`` is how many messages this
        consumer may hold that it has not acknowledged. Raises ValueError for what is no such number.
        """
        check_name("a queue", name)
        return Queue(self._access, name, depth, prefetch, deliveries)

    def topic(self, name: str) -> Topic:
        """A topic of this bus: each message goes to all who have subscribed by then."""
        check_name("a topic", name)
        return Topic(self._access, name)

    _access_of_it: Access | None = None

    @property
    def _access(self) -> Access:
        """One for all queues and topics, which share what may be on its way."""
        peer = self._started()
        with _making_access:
            if self._access_of_it is None:
                self._access_of_it = Access(self.name, peer)
            return self._access_of_it


class Bus(Caller):
    """A place on a bus, for calling what others export. Made by ``connect``; any thread may use it."""

    def __init__(
        self,
        name: str,
        *,
        pickle: bool = False,
        sticky: bool = False,
        wait: float = 0,
        onlooker: bool = False,  # joins also where nobody serves
    ) -> None:
        self.name = name
        self._sticky = sticky
        self._peer = Peer(name, None, loop=running_loop(), pickle=pickle, wait=wait, onlooker=onlooker)
        self._peer.start()

    def _started(self) -> Peer:
        return self._peer

    def stats(self) -> dict[str, Any]:
        """Counters of this peer and of the host, of several workers one, and who has what of the memory.

        ``{"self": {...}, "host": {...} or None, "memory": {...}}``. Of the memory, in bytes: all there is
        (``bytes``), what one peer may own (``quota``), what nobody has taken (``free``) and the longest piece
        of it (``longest``), what arrays and messages are in that anybody keeps (``leased``), what peers that
        are gone have left because others keep arrays in it (``orphaned``), and what each of the ``peers`` has
        taken (``owned``) and keeps (``leased``).
        """
        return self._peer.stats()

    def peers(self) -> list[dict[str, Any]]:
        """Who is on the bus, as ``{"name", "pid", "worker", "exports", "load"}``.

        ``worker`` is the number among those that serve the same, and None for who serves nothing; ``exports``
        are the names that it offers; ``load`` is how many calls a Python host has and has not answered.
        """
        return [
            {**peer, "worker": peer["worker"] if peer["worker"] >= 0 else None}
            for peer in self._native().peers()
        ]

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


def connect(name: str | None = None, *, pickle: bool = False, sticky: bool = False, wait: float = 0) -> Bus:
    """Joins the bus of this name, which `python -m isthmus serve` or ``isthmus.serve`` serves.

    Without a name it is that of ``$ISTHMUS_BUS``, which the stages of a pipeline (`python -m isthmus up`) are
    given.

    With ``pickle``, what has no value form travels as a pickle to and from Python peers that asked for it
    too, its arrays without a copy where they lie in the bus: dataframes, models, anything that ``pickle``
    takes. Functions, classes, modules and iterators stay objects that the other side uses from there, and so
    does what can't be pickled. A call by name that would carry a pickle to a peer which did not ask for them
    is an EncodeError. Whoever is called can run code in this process then, by what it answers.

    With ``sticky``, all calls of this caller go to one worker, as long as it is there. ``wait`` is for how
    many seconds to wait for the bus where there is none yet.

    Raises isthmus.ConnectError, which says what to run, when there is none.
    """
    seconds("wait", wait)
    if name is None and (name := os.environ.get("ISTHMUS_BUS")) is None:
        raise ConnectError(
            "connect() was given no name, and ISTHMUS_BUS is not set: name the bus, like connect('vision'), "
            "or have `python -m isthmus up` run this as a stage of a pipeline"
        )
    return Bus(name, pickle=pickle, sticky=sticky, wait=wait)
