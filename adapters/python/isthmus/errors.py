"""What can go wrong. Every class has a stable ``code``; texts may change."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BusFull",
    "Cancelled",
    "ConnectError",
    "EncodeError",
    "Error",
    "JsError",
    "NotExported",
    "PeerLost",
    "PythonError",
    "TimeoutError",
]


class Error(Exception):
    """What every error of Isthmus derives from."""

    code = "ISTHMUS"


class ConnectError(Error):
    """A bus could not be served or joined. The text says what to run; ``no_bus`` whether there is none."""

    code = "CONNECT"
    no_bus = False


class EncodeError(Error, TypeError):
    """A value can't travel. ``path`` says where it sits, such as ``args[1].rows[3].handle``."""

    code = "ENCODE"

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class NotExported(Error, LookupError):
    """The host exports no function of this ``name``; ``close`` holds the names that resemble it."""

    code = "NOT_EXPORTED"

    def __init__(self, name: str, close: Sequence[str] | None = None) -> None:
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        super().__init__(f"the host exports no function named '{name}'{hint}")
        self.name = name
        self.close = list(close or ())


class TimeoutError(Error, builtins.TimeoutError):
    """The time of a call ran out. Also a built-in ``TimeoutError``."""

    code = "TIMEOUT"


class PeerLost(Error, ConnectionError):
    """The other side is gone, or the bus was closed."""

    code = "PEER_LOST"


class BusFull(Error):
    """The bus has no memory or no room left for this message."""

    code = "BUS_FULL"


class Cancelled(Error):
    """The other side has cancelled the call."""

    code = "CANCELLED"


class _RemoteError(Error):
    def __init__(self, about: Mapping[str, Any] | str) -> None:
        if isinstance(about, str):
            about = {"message": about}
        self.about = about
        self.type = str(about.get("type") or "Error")
        self.message = str(about.get("message") or "")
        self.traceback = str(about.get("traceback") or "")
        super().__init__(f"{self.type}: {self.message}" if self.message else self.type)
        self.remote_args = list(about.get("args") or ())
        cause = about.get("cause")
        if isinstance(cause, Mapping):
            self.__cause__ = remote_error({"language": about.get("language"), **cause})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ({key: value for key, value in self.about.items() if key != "origin"},)


class PythonError(_RemoteError):
    """An exception of a Python host: its ``type``, ``message``, ``traceback`` and ``remote_args``."""

    code = "PYTHON"


class JsError(_RemoteError):
    """An error of a JavaScript peer: its ``type``, ``message`` and ``stack``."""

    code = "JS"

    @property
    def stack(self) -> str:
        """The JavaScript stack, as text."""
        return self.traceback


def remote_error(about: Mapping[str, Any]) -> PythonError | JsError:
    """The exception for what another peer tells of its own. ``about`` stays with it, to be passed on."""
    language = about.get("language") or ("python" if about.get("module") else "javascript")
    return PythonError(about) if language == "python" else JsError(about)


def in_words(error: BaseException, message: str | None = None) -> PythonError:
    """What tells of an exception without being it: its type, its traceback, and its message or this one."""
    kind = type(error)
    lines = traceback.format_exception(kind, error, error.__traceback__)
    about = {"language": "python", "type": kind.__qualname__, "module": kind.__module__}
    args = [each if isinstance(each, str | int | float) else repr(each) for each in error.args]
    text = str(error) if message is None else message
    return PythonError({**about, "message": text, "traceback": "".join(lines), "args": args})


for _class in (Error, *Error.__subclasses__(), PythonError, JsError):
    _class.__module__ = "isthmus"
