"""Isthmus: JavaScript calls Python, and Python calls Python, over shared memory.

``export`` offers a function, ``serve`` or ``Host`` serves what is offered, ``connect`` calls it, ``empty``
makes an array that travels without a copy. ``python -m isthmus serve app.py`` serves a file. Logs go to
``logging.getLogger("isthmus")``.
"""

from .arrays import empty, numpy_memory
from .caller import Bus, connect
from .errors import (
    BusFull,
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

__all__ = [
    "Bus",
    "BusFull",
    "ConnectError",
    "EncodeError",
    "Error",
    "Host",
    "JsError",
    "NotExported",
    "PeerLost",
    "PythonError",
    "TimeoutError",
    "connect",
    "empty",
    "export",
    "numpy_memory",
    "serve",
]
