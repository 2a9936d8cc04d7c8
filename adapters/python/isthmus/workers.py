"""The workers of one process: itself, or threads or sub-interpreters in it. Each is a peer and serves."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import importlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from .app import (
    DONE,
    FAILED,
    Lifeline,
    about,
    about_loading,
    import_app,
    imported_files,
    warn_of_no_exports,
)
from .errors import ConnectError
from .host import Host

__all__ = [
    "KINDS",
    "WORK",
    "arguments_of_crew",
    "check_kind",
    "command_of_crew",
    "host_of",
    "work_in_interpreter",
]

log = logging.getLogger("isthmus")

KINDS = ("process", "interpreter", "thread")
LOOK_EVERY = 0.25  # seconds between two looks at what was imported
WORK = "work"  # the command that a crew's process is started with: for supervisors, and so without help


def check_kind(kind: str) -> None:
    """Raises RuntimeError when this Python can't have workers of this kind, with what to do."""
    version = ".".join(map(str, sys.version_info[:3]))
    if kind == "interpreter" and sys.version_info < (3, 12):
        raise RuntimeError(
            f"interpreters with a GIL of their own need Python 3.12 or later, and {sys.executable} is "
            f"{version}: use that, or --worker-kind process"
        )
    if kind == "thread" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError(
            f"threads run at the same time in a free-threaded build of Python alone (3.13t or later), and "
            f"{sys.executable} ({version}) is none: use that, or --worker-kind process"
        )


def command_of_crew(
    app: str,
    bus: str,
    *,
    kind: str = "process",
    allow: str | None = None,
    numpy_memory: bool = True,
    pickle: bool = False,
    reload: bool = False,
) -> list[str]:
    """What starts a crew. Its supervisor says which workers they are, and on which line it listens."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    command = [sys.executable, *flags, "-m", "isthmus", WORK, app, "--bus", bus, "--worker-kind", kind]
    if allow is not None:
        command += ["--allow", allow]
    command += ["--no-numpy-memory"] * (not numpy_memory)
    return command + ["--pickle"] * pickle + ["--reload"] * reload


def arguments_of_crew(argv: Sequence[str]) -> argparse.Namespace:
    """What follows ``WORK`` in such a command."""
    parser = argparse.ArgumentParser(prog=f"isthmus {WORK}")
    parser.add_argument("app")
    parser.add_argument("--bus")
    parser.add_argument("--worker-kind", choices=KINDS)
    parser.add_argument("--allow")
    parser.add_argument("--no-numpy-memory", dest="numpy_memory", action="store_false")
    parser.add_argument("--pickle", action="store_true")
    parser.add_argument("--reload", action="store_true")
    parser.add_argument("--first", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--lifeline", type=int)
    parser.set_defaults(run=_work)
    return parser.parse_args(argv)


def host_of(arguments: argparse.Namespace, **more: Any) -> Host:
    """The host that a command line asks for."""
    return Host(
        arguments.bus,
        allow=arguments.allow,
        numpy_memory=arguments.numpy_memory,
        pickle=arguments.pickle,
        **more,
    )


def _work(arguments: argparse.Namespace) -> int:
    """What the process of a crew does: it serves until SIGTERM has it drain, or its supervisor is gone."""
    lifeline = Lifeline(arguments.lifeline)
    lifeline.watch()
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal: the supervisor sees to them
        signal.signal(number, lambda number, frame: None)
    in_interpreters = arguments.worker_kind == "interpreter"
    return (_work_in_interpreters if in_interpreters else _work_here)(arguments, lifeline)


def _work_here(arguments: argparse.Namespace, lifeline: Lifeline) -> int:
    """As one worker, or as threads that share the app."""
    numbers = range(arguments.first, arguments.first + arguments.count)
    try:
        import_app(arguments.app)
        if arguments.worker_kind == "thread" and getattr(sys, "_is_gil_enabled", bool)():
            raise RuntimeError("one of its modules has turned the GIL on, so threads take turns")
    except (Exception, SystemExit) as error:
        lifeline.say(about_loading(arguments.app, error))
        return FAILED
    if arguments.first == 0:
        warn_of_no_exports(arguments.app)
    hosts = [host_of(arguments, join=True, worker=number) for number in numbers]

    def drain(number: int, frame: FrameType | None) -> None:
        for host in hosts:
            host.drain()

    signal.signal(signal.SIGTERM, drain)
    try:
        for host in hosts:
            host.start()
        files = imported_files()
        lifeline.say({"ready": True, "files": files})
        with _tells_of_imports(lifeline, files) if arguments.reload else contextlib.nullcontext():
            for host in hosts:
                host.wait()
    except ConnectError as error:
        lifeline.say(about(error))
        return FAILED
    finally:
        for host in hosts:
            host.stop()
    return DONE


@contextlib.contextmanager
def _tells_of_imports(lifeline: Lifeline, files: Iterable[str]) -> Iterator[None]:
    """Meanwhile the supervisor is told of the files that are imported beside these, as by calls."""
    known = set(files)
    is_over = threading.Event()

    def look() -> None:
        since = time.time_ns()
        while not is_over.wait(LOOK_EVERY):
            now = time.time_ns()
            if new := [file for file in imported_files() if file not in known]:
                known.update(new)
                lifeline.say({"files": new, "since": since})
            since = now

    thread = threading.Thread(target=look, name="isthmus-imports")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


# --- sub-interpreters --------------------------------------------------------------------------------------


def _work_in_interpreters(arguments: argparse.Namespace, lifeline: Lifeline) -> NoReturn:
    """Each on a thread, with a GIL and a copy of the app of its own.

    Signals reach the main interpreter alone, which tells the others by shutting down its end of a socket.
    """
    numbers = range(arguments.first, arguments.first + arguments.count)
    lines = [socket.socketpair() for _ in numbers]
    threads = [
        threading.Thread(target=_run_interpreter, args=(arguments, number, theirs.detach()))
        for number, (_, theirs) in zip(numbers, lines, strict=True)
    ]

    was_told = False

    def drain(number: int, frame: FrameType | None) -> None:
        nonlocal was_told
        was_told = True
        for ours, _ in lines:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_WR)

    signal.signal(signal.SIGTERM, drain)
    for thread in threads:
        thread.start()
    said = [json.loads(ours.makefile().readline() or "{}") for ours, _ in lines]
    failed = [each for each in said if not each.get("ready")]
    lifeline.say(failed[0] if failed else said[0])
    while not failed and all(thread.is_alive() for thread in threads):
        threads[0].join(0.5)  # signal handlers run meanwhile
    is_fine = was_told and not failed
    drain(
        signal.SIGTERM, None
    )  # where one has ended unasked, the others end too, to be started again together
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
    # CPython 3.12 finds its heap corrupted when it finalizes the main interpreter after asyncio has run in
    # two others. That one has run nothing but this, and the others have ended in good order.
    try:
        print(end="", flush=True)
        print(end="", file=sys.stderr, flush=True)
    finally:  # whoever reads may be gone
        os._exit(DONE if is_fine else FAILED)


def _run_interpreter(arguments: argparse.Namespace, number: int, line: int) -> None:
    """The thread of a sub-interpreter."""
    with socket.socket(fileno=line):  # hung up, whatever becomes of it
        _run_in_interpreter(
            {**vars(arguments), "first": number, "lifeline": line, "supervisor": arguments.lifeline}
        )


def _run_in_interpreter(options: dict[str, Any]) -> None:
    del options["run"]
    script = f"""import sys
sys.path[:] = {sys.path!r}
from isthmus import workers
workers.work_in_interpreter({options!r})"""
    if sys.version_info >= (3, 13):
        interpreters = importlib.import_module("_interpreters")
        interpreter = interpreters.create("isolated")
    else:
        interpreters = importlib.import_module("_xxsubinterpreters")
        interpreter = interpreters.create()
    failure = interpreters.run_string(interpreter, script)  # before 3.13 it raises
    interpreters.destroy(interpreter)
    if failure is not None:
        log.error("a worker has failed: %s", failure.formatted)


def work_in_interpreter(options: dict[str, Any]) -> None:
    """What a sub-interpreter does: it serves until its line is shut down."""
    arguments = argparse.Namespace(**options)
    line = socket.socket(fileno=os.dup(arguments.lifeline))
    lifeline = Lifeline(line.fileno())
    builtins.__import__ = _with_advice(builtins.__import__)
    importlib.import_module = _with_advice(importlib.import_module)
    try:
        import_app(arguments.app)
    except (Exception, SystemExit) as error:
        lifeline.say(about_loading(arguments.app, error))
        return
    if arguments.first == 0:
        warn_of_no_exports(arguments.app)

    host = host_of(arguments, join=True, worker=arguments.first)
    try:
        host.start()
    except ConnectError as error:
        lifeline.say(about(error))
        return

    def wait_for_the_end() -> None:
        line.recv(1)
        host.drain()

    waiting = threading.Thread(target=wait_for_the_end)
    waiting.start()
    files = imported_files()
    lifeline.say({"ready": True, "files": files})
    with (
        _tells_of_imports(Lifeline(arguments.supervisor), files)
        if arguments.reload
        else contextlib.nullcontext()
    ):
        host.wait()
    line.shutdown(socket.SHUT_RD)
    waiting.join()
    if sys.version_info[:2] == (3, 13):
        # 3.13.0 to 3.13.2 print a TypeError if the interpreter's end does it.
        vars(threading._thread_local_info).pop("_track_dummy_thread_ref", None)


# What is said of modules that are not made for sub-interpreters, by CPython, Cython and some others.
REFUSAL = re.compile(
    r"module (\w+)\S* does not support loading in subinterpreters|"
    r"one interpreter per process|once per process"
)


def _with_advice(import_: Callable[..., Any]) -> Callable[..., Any]:
    """Imports likewise; what can't be loaded here is an ImportError that begins with what to do."""

    def import_here(name: str, *more: Any, **options: Any) -> Any:
        try:
            return import_(name, *more, **options)
        except ImportError as error:
            refusals = [found for each in _chain(error) if (found := REFUSAL.search(str(each)))]
            if not refusals:
                raise
            first = refusals[-1]  # packages such as numpy tell it at the end of a page of their own
            raise ImportError(
                f"{first[1] or name} can't be loaded in a sub-interpreter: use --worker-kind process "
                f"(spawn: workerKind: 'process'). {first.string}"
            ) from None

    return import_here


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
