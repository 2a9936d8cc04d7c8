"""Isthmus: JavaScript and Python call each other, over shared memory.

``export`` offers a function, ``serve`` or ``Host`` serves what is offered, ``connect`` calls it, ``empty``
makes an array that travels without a copy, ``current`` tells about the call that is being served.
``python -m isthmus serve app.py`` serves a file. Logs go to ``logging.getLogger("isthmus")``.
"""

from ._isthmus import Call, current
from .arrays import empty, numpy_memory
from .batches import Batch
from .caller import Bus, connect
from .errors import (
    BusFull,
    Cancelled,
    ConnectError,
    EncodeError,
    Error,
    JsError,
    NotExported,
    PeerLost,
    PythonError,
    TimeoutError,
)
from .exports import export
from .host import Host, serve
from .proxies import JsFunction, RemoteObject
from .queues import Message, Queue
from .streams import Stream
from .topics import Subscription, Topic

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Bus",
    "BusFull",
    "Call",
    "Cancelled",
    "ConnectError",
    "EncodeError",
    "Error",
    "Host",
    "JsError",
    "JsFunction",
    "Message",
    "NotExported",
    "PeerLost",
    "PythonError",
    "Queue",
    "RemoteObject",
    "Stream",
    "Subscription",
    "TimeoutError",
    "Topic",
    "connect",
    "current",
    "empty",
    "export",
    "numpy_memory",
    "serve",
]
