"""The functions that this program offers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, overload

from ._isthmus import Exports

__all__ = ["export", "registry"]

F = TypeVar("F", bound=Callable[..., Any])

registry = Exports()
_by_name: dict[str, Callable[..., Any]] = {}


def _mode(function: Callable[..., Any]) -> int:
    """Where its calls run: 0 on the dispatcher's thread, 1 on the event loop."""
    called = function if inspect.isroutine(function) or isinstance(function, partial) else function.__call__  # type: ignore[operator]
    return int(inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called))


@overload
def export(function: F, /) -> F: ...
@overload
def export(*, name: str | None = None, **options: Any) -> Callable[[F], F]: ...


def export(function: F | None = None, /, *, name: str | None = None, **options: Any) -> F | Callable[[F], F]:
    """Offers a function to callers, under its own name or another.

    Use it bare (``@isthmus.export``) or with a name (``@isthmus.export(name="sum")``). The function comes
    back unchanged.

    Called, it runs on the host's dispatcher thread with the GIL held, one call after the other, so it must
    not wait for threads that make calls themselves; an ``async def`` runs as a task on the host's event loop,
    thousands at once. A generator and an async generator are
    streams, which their callers read while they run; ``isthmus.current()`` tells about the call. Its
    arguments are Python values as the documentation's table has them; arrays are read-only numpy arrays
    (memoryviews where there is no numpy) over the memory of the bus, and stay valid for as long as they are
    kept. What it returns travels back; an array from ``isthmus.empty`` or a view of an argument does so
    without a copy. What it raises reaches the caller with its traceback. A name that is exported again by
    the same function, as after a reload, is replaced.

    Raises TypeError for what can't be exported, ValueError for a name that another function has.
    """
    if options:
        raise TypeError(f"export has no option '{next(iter(options))}' yet: it takes name alone")

    def register(function: F) -> F:
        if not callable(function):
            raise TypeError(f"export takes a function, and {function!r} is none")
        own_name = name if name is not None else getattr(function, "__name__", None)
        if not own_name or not isinstance(own_name, str):
            raise TypeError(f"{function!r} has no name: use export(name=...)")
        other = _by_name.get(own_name)
        if other is not None and _place(other) != _place(function):
            raise ValueError(f"'{own_name}' is exported already, by {_place(other)}: use export(name=...)")
        registry.set(own_name, function, _mode(function))
        _by_name[own_name] = function
        return function

    return register if function is None else register(function)


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
