"""The functions that this program offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from ._isthmus import Exports
from .batches import Batch, Batched
from .executors import Executed, ExecutorLike, is_asynchronous

__all__ = ["export", "registry"]

F = TypeVar("F", bound=Callable[..., Any])

registry = Exports()
_by_name: dict[str, Callable[..., Any]] = {}


ON_DISPATCHER, ON_LOOP = range(2)
RESERVED = "isthmus."


@overload
def export(function: F, /) -> F: ...
@overload
def export(
    *, name: str | None = None, executor: ExecutorLike | None = None, batch: Batch | None = None
) -> Callable[[F], F]: ...


def export(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    executor: ExecutorLike | None = None,
    batch: Batch | None = None,
) -> F | Callable[[F], F]:
    """Offers a function to callers, under its own name or another.

    Use it bare (``@isthmus.export``) or with a name (``@isthmus.export(name="sum")``). The function comes
    back unchanged.

    Called, it runs on the host's dispatcher thread with the GIL held, one call after the other, so it must
    not wait for threads that make calls themselves; an ``async def`` runs as a task on the host's event loop,
    thousands at once. With ``executor="threads"`` its calls run on a pool of threads, beside each other and
    beside the dispatcher; with ``executor="processes"`` on a pool of processes, one for each processor; with
    a ``concurrent.futures.Executor`` of one's own, wherever that takes them: a ``ProcessPoolExecutor``,
    Dask's ``client.get_executor()``, ``isthmus.ray.RayExecutor()``. A function without arguments that returns
    one is called when a call first needs it, on a thread of its own, so that a cluster that can't be reached
    is an error of the calls that wait for it, and the next ones try anew. In other processes the function,
    its arguments and its result must be what can be pickled, ``isthmus.current()`` is None, and large arrays
    go there and back without a copy where the bus can be joined. With ``batch=isthmus.Batch(...)`` it is
    called once for many calls, on its executor or a thread of its own.

    A generator and an async generator are streams, which their callers read while they run;
    ``isthmus.current()`` tells about the call. Its arguments are Python values as the documentation's table
    has them; arrays are read-only numpy arrays (memoryviews where there is no numpy) over the memory of the
    bus, and stay valid for as long as they are kept. What it returns travels back; an array from
    ``isthmus.empty`` or a view of an argument does so without a copy. What it raises reaches the caller with
    its traceback. A name that is exported again by the same function, as after a reload, is replaced.

    Raises TypeError for what can't be exported, or not like this, ValueError for a name that another function
    has, or that begins with ``isthmus.``.
    """

    def register(function: F) -> F:
        if not callable(function):
            raise TypeError(f"export takes a function, and {function!r} is none")
        own_name = name if name is not None else getattr(function, "__name__", None)
        if not own_name or not isinstance(own_name, str):
            raise TypeError(f"{function!r} has no name: use export(name=...)")
        if own_name.startswith(RESERVED):
            raise ValueError(
                f"'{own_name}' can't be exported: names that begin with '{RESERVED}' are reserved"
            )
        other = _by_name.get(own_name)
        if other is not None and _place(other) != _place(function):
            raise ValueError(f"'{own_name}' is exported already, by {_place(other)}: use export(name=...)")
        served: Callable[..., Any] = function
        if batch is not None:
            served = Batched(function, batch, executor, own_name)
        elif executor is not None:
            served = Executed(function, executor, own_name)
        on_loop = served is not function or is_asynchronous(function)
        registry.set(own_name, served, ON_LOOP if on_loop else ON_DISPATCHER)
        _by_name[own_name] = function
        return function

    return register if function is None else register(function)


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
