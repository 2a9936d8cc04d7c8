"""What other peers do to the objects of this one: operations, each a subject and the steps from it."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import importlib
import inspect
import operator
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any, NoReturn

from .errors import remote_error

__all__ = ["Operator", "allowed_modules"]

Step = Sequence[Any]

EVERYTHING = "*"

_NAMES = (
    *(
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
    ),
    *("lt", "le", "eq", "ne", "gt", "ge"),
)
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    f"__{name}__": getattr(operator, f"__{name}__") for name in _NAMES
}
REFLECTED = {f"__r{name[2:]}": function for name, function in BINARY.items()}

# What everyone may have of an object, of the names that begin with an underscore.
OFFERED = frozenset(
    (
        *BINARY,
        *REFLECTED,
        *(f"__i{name[2:]}" for name in BINARY),
        *(
            f"__{name}__"
            for name in ("abs", "call", "contains", "delitem", "getitem", "index", "inv", "invert")
        ),
        *(f"__{name}__" for name in ("neg", "not", "pos", "setitem", "concat", "iconcat", "divmod", "round")),
        *(f"__{name}__" for name in ("len", "iter", "next", "reversed", "bool", "int", "float", "complex")),
        *(f"__{name}__" for name in ("str", "repr", "format", "hash", "trunc", "floor", "ceil", "fspath")),
        *(f"__{name}__" for name in ("enter", "exit", "aenter", "aexit", "aiter", "anext")),
        *(f"__{name}__" for name in ("name", "qualname", "doc", "version", "all")),
        *(f"__{name}__" for name in ("array", "array_interface", "dlpack", "dlpack_device", "dataframe")),
        *(f"__arrow_c_{name}__" for name in ("schema", "array", "stream")),
        *("_asdict", "_fields", "_replace"),
    )
)
INNER = (FrameType, CodeType, TracebackType, asyncio.AbstractEventLoop)


def allowed_modules(allow: str | Iterable[str] | None) -> frozenset[str]:
    """The modules of a list or a text with commas; ``"*"`` among them stands for all."""
    names = allow.split(",") if isinstance(allow, str) else allow or ()
    return frozenset(name.strip() for name in names if name.strip())


class Operator:
    """Performs the operations that a peer is sent.

    Where not every module is allowed, it keeps to what objects show of themselves: from any object Python's
    inner works lead to all there is in the process. It is no sandbox: a public method does what its author
    had in mind.
    """

    def __init__(self, name: str, allow: frozenset[str] = frozenset()) -> None:
        self._name = name
        self._allow = allow
        self._is_open = EVERYTHING in allow
        guarded: dict[str, Callable[..., Any]] = {"get": self._get, "set": self._set, "del": self._del}
        self._verbs = _verbs if self._is_open else _verbs | guarded

    def __call__(self, subject: Any, steps: Sequence[Step], call: object) -> Any:
        return self._perform(self._module(subject) if isinstance(subject, str) else subject, steps, 0)

    def _module(self, name: str) -> Any:
        if not self._allows(name):
            raise PermissionError(
                f"the host of '{self._name}' does not allow others to import '{name}': serve it with "
                f"`--allow {name}` or allow=[\"{name}\"]; in JavaScript, spawn takes {{ allow: ['{name}'] }}"
            )
        return importlib.import_module(name)

    def _allows(self, module: str) -> bool:
        parts = module.split(".")
        return self._is_open or any(
            ".".join(parts[:count]) in self._allow for count in range(1, len(parts) + 1)
        )

    def _perform(self, value: Any, steps: Sequence[Step], at: int) -> Any:
        """Goes the steps from the one at `at` on; behind a coroutine, once that has its result."""
        owner: Any = None
        while at < len(steps):
            step = steps[at]
            name = steps[at - 1][1] if owner is not None else ""
            try:
                before, value = value, self._go(value, step, owner, name)
                if not self._is_open and isinstance(value, ModuleType) and not isinstance(before, ModuleType):
                    self._refuse(f"the module '{value.__name__}'")
            except Exception as error:
                _note(error, steps, at)
                raise
            owner = before if step[0] == "get" else None
            at += 1
            if at < len(steps) and inspect.iscoroutine(value):
                return self._go_on(value, steps, at)
        return value

    async def _go_on(self, awaitable: Awaitable[Any], steps: Sequence[Step], at: int) -> Any:
        result = self._perform(await awaitable, steps, at)
        return await result if inspect.isawaitable(result) else result

    def _go(self, value: Any, step: Step, owner: Any, name: str) -> Any:
        if not self._is_open and isinstance(value, INNER):
            self._refuse(f"a {type(value).__name__}")
        verb, *rest = step
        if verb == "call":
            result = value(*(rest[0] if rest else ()), **(rest[1] if len(rest) > 1 else {}))
            return _operate(owner, name, rest[0]) if result is NotImplemented else result
        if verb == "exit":
            return _leave(value, rest[0] if rest else None)
        one = self._verbs.get(verb)
        if one is None:
            raise ValueError(f"there is no step '{verb}': use {', '.join(sorted((*_verbs, 'call', 'exit')))}")
        return one(value, *rest)

    # --- where not everything is allowed ---

    def _get(self, value: Any, name: str) -> Any:
        verb = _verbs_by_name.get(name)
        if verb is not None:
            return functools.partial(self._verbs[verb], value)
        is_text = isinstance(value, str) or (isinstance(value, type) and issubclass(value, str))
        if (
            (name.startswith("_") and name not in OFFERED)
            or (is_text and name in ("format", "format_map"))  # what is formatted goes to attributes
            or (isinstance(value, type) and name == "mro")
        ):
            self._refuse(f"'{name}'")
        return getattr(value, name)

    def _set(self, value: Any, name: str, new: Any) -> None:
        if name.startswith("_"):
            self._refuse(f"'{name}'")
        setattr(value, name, new)

    def _del(self, value: Any, name: str) -> None:
        if name.startswith("_"):
            self._refuse(f"'{name}'")
        delattr(value, name)

    def _refuse(self, what: str) -> NoReturn:
        raise PermissionError(
            f"the host of '{self._name}' does not let others have {what}, which leads to all of its process: "
            "serve it with `--allow '*'` or allow=[\"*\"] if they may; in JavaScript, spawn takes "
            "{ allow: ['*'] }"
        )


def _operate(owner: Any, name: str, args: Sequence[Any]) -> Any:
    """What an operator gives whose method for it has declined: the other operand is asked then."""
    if name in BINARY:
        return BINARY[name](owner, args[0])
    if name in REFLECTED:
        return REFLECTED[name](args[0], owner)
    raise TypeError(
        f"what was called does not take {', '.join(type(argument).__name__ for argument in args)}"
    )


def _enter(value: Any) -> Any:
    kind = type(value)
    if hasattr(kind, "__enter__") or not hasattr(kind, "__aenter__"):
        return value.__enter__()
    return value.__aenter__()


def _leave(value: Any, error: Any) -> Any:
    if isinstance(error, dict):
        error = _exception(error)
    about = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    kind = type(value)
    if hasattr(kind, "__exit__") or not hasattr(kind, "__aexit__"):
        return bool(value.__exit__(*about))
    return _leave_async(value, about)


def _exception(about: dict[str, Any]) -> BaseException:
    """What another peer's error is here: of the same class, where that is a built-in one."""
    kind = getattr(builtins, str(about.get("type")), None) if about.get("module") == "builtins" else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # those that want more than a message
            return kind(about.get("message", ""))
    return remote_error(about)


async def _leave_async(value: Any, about: tuple[Any, ...]) -> bool:
    return bool(await value.__aexit__(*about))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


_verbs: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "del": delattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "del_item": operator.delitem,
    "contains": operator.contains,
    "str": str,
    "repr": repr,
    "bool": bool,
    "len": len,
    "int": int,
    "float": float,
    "iter": iter,
    "enter": _enter,
    "dir": dir,
    "type": _kind,
}


_verbs_by_name = {"__getattribute__": "get", "__setattr__": "set", "__delattr__": "del"}


def _note(error: Exception, steps: Sequence[Step], at: int) -> None:
    if len(steps) > 1:
        note = f"in step {at + 1} of {len(steps)}: {_shown(steps[at])}"
        if hasattr(error, "add_note"):
            error.add_note(note)


def _shown(step: Step) -> str:
    verb, *rest = step
    if verb in ("get", "set", "del"):
        return f".{rest[0]}" + (" = …" if verb == "set" else "")
    if verb in ("item", "set_item", "del_item"):
        return f"[{_brief(rest[0])}]" + (" = …" if verb == "set_item" else "")
    if verb == "call":
        return "(…)" if any(rest) else "()"
    return f"{verb}(…)"


def _brief(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        return "…"
    return text if len(text) <= 40 else "…"
