"""What this peer holds of others' objects."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NoReturn

from . import _isthmus, futures
from .errors import PythonError
from .streams import Stream

__all__ = ["JsFunction", "RemoteObject", "proxy_of"]

Reference = _isthmus.Reference


def proxy_of(reference: Reference) -> JsFunction | RemoteObject | Stream:
    """What stands for another peer's object here."""
    if reference.flags & _isthmus.ITERABLE:
        return Stream(reference.bus, ("fetch", reference, []), reference=reference)
    if reference.language == "javascript":
        return JsFunction(reference)
    return RemoteObject(reference)


class JsFunction:
    """A function of a JavaScript peer.

    Called in a thread where an event loop runs, it returns an awaitable; anywhere else it blocks and returns
    the result, with the GIL free meanwhile. A promise that it returns is awaited over there. ``call``,
    ``call_async`` and ``submit`` choose one way explicitly, and take a ``timeout`` in seconds.
    """

    __slots__ = ("__isthmus_reference__", "__weakref__")

    def __init__(self, reference: Reference) -> None:
        self.__isthmus_reference__ = reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _invoke(self.__isthmus_reference__, args, kwargs)

    def call(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Calls it and waits for its result."""
        reference = self.__isthmus_reference__
        return reference.bus.call(reference, args, kwargs, timeout)

    def call_async(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Awaitable[Any]:
        """Calls it; the result is to be awaited in the running event loop."""
        reference = self.__isthmus_reference__
        return futures.begin(reference.bus, reference, args, kwargs, timeout)

    def submit(
        self, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Calls it; the result comes in a Future."""
        reference = self.__isthmus_reference__
        return futures.submit(reference.bus, reference, args, kwargs, timeout)

    def release(self) -> None:
        """Lets the other side forget it. It can't be called any more."""
        self.__isthmus_reference__.release()

    def __repr__(self) -> str:
        state = ", released" if self.__isthmus_reference__.released else ""
        return f"<isthmus.JsFunction of '{self.__isthmus_reference__.bus.name}'{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a function of another process can't be pickled")


def _invoke(reference: Reference, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if futures.is_in_loop():
        return futures.begin(reference.bus, reference, args, kwargs, None)
    return reference.bus.call(reference, args, kwargs, None)


_TRANSLATED = {
    kind.__name__: kind
    for kind in (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
        OverflowError,
    )
}


def _ask(proxy: RemoteObject, *steps: list[Any]) -> Any:
    """One operation. What Python's own protocols expect to be raised is raised as such."""
    reference: Reference = object.__getattribute__(proxy, "__isthmus_reference__")
    try:
        return reference.bus.call(("operate", reference, list(steps)), (), {}, None)
    except PythonError as error:
        kind = _TRANSLATED.get(error.type) if error.about.get("module") == "builtins" else None
        if kind is None:
            raise
        raise kind(*error.remote_args or (error.message,)) from error


class RemoteObject:
    """An object of another Python peer. Its attributes, items, calls and operators are over there.

    What they result in comes as a value where it has that form, else as another remote object. A table
    stays one, too: ``pyarrow.table(remote)`` or ``polars.DataFrame(remote)`` has its rows come here. Its own
    name is ``release`` alone, which lets the other side forget it; so does dropping it. Everything blocks,
    with the GIL free, but for a call in a thread where an event loop runs: that is to be awaited.
    """

    __slots__ = ("__isthmus_reference__", "__weakref__")

    def __init__(self, reference: Reference) -> None:
        object.__setattr__(self, "__isthmus_reference__", reference)

    def release(self) -> None:
        """Lets the other side forget it. It can't be used any more."""
        self.__isthmus_reference__.release()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _invoke(self.__isthmus_reference__, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, ["get", name])

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, ["set", name, value])

    def __delattr__(self, name: str) -> None:
        _ask(self, ["del", name])

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, ["item", key])

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, ["set_item", key, value])

    def __delitem__(self, key: Any) -> None:
        _ask(self, ["del_item", key])

    def __contains__(self, item: Any) -> bool:
        return bool(_ask(self, ["contains", item]))

    def __len__(self) -> int:
        return int(_ask(self, ["len"]))

    def __bool__(self) -> bool:
        return bool(_ask(self, ["bool"]))

    def __str__(self) -> str:
        return str(_ask(self, ["str"]))

    def __repr__(self) -> str:
        reference = self.__isthmus_reference__
        if reference.released or not reference.bus.is_open:
            return f"<isthmus.RemoteObject of '{reference.bus.name}', released>"
        return str(_ask(self, ["repr"]))

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __dir__(self) -> list[str]:
        return [*_ask(self, ["dir"]), "release"]

    def __int__(self) -> int:
        return int(_ask(self, ["int"]))

    def __float__(self) -> float:
        return float(_ask(self, ["float"]))

    def __hash__(self) -> int:
        reference = self.__isthmus_reference__
        return hash((reference.slot, reference.generation, reference.id))

    def __iter__(self) -> Stream:
        reference = self.__isthmus_reference__
        return Stream(reference.bus, ("operate", reference, []))

    def __aiter__(self) -> Stream:
        return self.__iter__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        reference: Reference = object.__getattribute__(self, "__isthmus_reference__")
        table = reference.bus.call(("fetch", reference, []), (), {}, None)
        if isinstance(table, RemoteObject) or not hasattr(table, "__arrow_c_stream__"):
            raise TypeError(f"{self!r} is no table")
        return table.__arrow_c_stream__(requested_schema)

    def __enter__(self) -> Any:
        return _ask(self, ["enter"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return bool(_ask(self, ["exit"]))
        about = {"type": type(error).__qualname__, "module": type(error).__module__, "message": str(error)}
        return bool(_ask(self, ["exit", {**about, "language": "python"}]))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an object of another process can't be pickled")


def _operation(name: str) -> Callable[..., Any]:
    def method(self: RemoteObject, *operands: Any) -> Any:
        return _ask(self, ["get", name], ["call", list(operands), {}])

    method.__name__ = method.__qualname__ = name
    return method


_ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
for _name in (
    *(f"__{name}__" for name in _ARITHMETIC),
    *(f"__r{name}__" for name in _ARITHMETIC),
    *(f"__{name}__" for name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert")),
):
    setattr(RemoteObject, _name, _operation(_name))
