"""The command line: ``python -m isthmus``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import _isthmus, host
from .errors import ConnectError
from .exports import registry

DONE, FAILED, USAGE = 0, 1, 2

log = logging.getLogger("isthmus")


class _Lifeline:
    """A socket to the parent: told once whether the host is ready; its hang-up ends this process."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def watch(self, bus: str) -> None:
        if self._fd is not None:
            _isthmus.watch_parent(self._fd, _isthmus.socket_path(bus))

    def say(self, message: dict[str, Any]) -> None:
        if self._fd is None:
            return
        line = json.dumps(message).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:
            pass  # the parent is gone, which the watch deals with


def _load(app: str) -> ModuleType:
    """Imports the app, a file or a module's name, its folder first on the path as with `python app.py`."""
    path = Path(app)
    if not path.is_file():
        if app.endswith(".py") or os.sep in app:
            raise FileNotFoundError(f"there is no file {app}")
        if re.fullmatch(r"\w+(\.\w+)*", app) is None:
            raise FileNotFoundError(f"there is neither a file nor a module {app}")
        sys.path.insert(0, os.getcwd())
        sys.argv = [app]
        return importlib.import_module(app)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.argv = [app]
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names or not path.stem.isidentifier()
    name = "isthmus_app" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{app} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _traceback_of(error: BaseException) -> str:
    """The traceback without the frames of this file and of importlib, which say nothing about the app."""
    whole = traceback.TracebackException.from_exception(error)
    hidden = (
        __file__,
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
        importlib.__file__,
    )
    kept = [frame for frame in whole.stack if frame.filename not in hidden]
    whole.stack[:] = kept
    return "".join(whole.format())


def _about(error: BaseException) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": str(error), "traceback": _traceback_of(error)}}


def _serve(arguments: argparse.Namespace) -> int:
    lifeline = _Lifeline(arguments.lifeline)
    name = arguments.bus or re.sub(r"[^A-Za-z0-9._-]", "-", Path(arguments.app).stem).lstrip(".") or "isthmus"
    try:
        lifeline.watch(name)
        host._loading = True
        _load(arguments.app)
    except FileNotFoundError as error:
        lifeline.say(_about(error))
        shown = error if error.filename is None else _traceback_of(error)
        print(f"isthmus: {shown}", file=sys.stderr)
        return USAGE if error.filename is None else FAILED
    except (Exception, SystemExit) as error:
        lifeline.say(_about(error))
        print(
            f"isthmus: {arguments.app} could not be imported\n{_traceback_of(error)}", end="", file=sys.stderr
        )
        return FAILED
    finally:
        host._loading = False
    if not registry.names():
        log.warning(
            "%s exports nothing: put @isthmus.export before the functions that it offers", arguments.app
        )

    served = host.Host(
        name,
        memory=arguments.memory,
        quota=arguments.quota,
        allow=arguments.allow,
        numpy_memory=arguments.numpy_memory,
        pickle=arguments.pickle,
    )
    with host._stopped_by_signals(served):
        try:
            served.start()
        except ConnectError as error:
            lifeline.say(_about(error))
            print(f"isthmus: {error}", file=sys.stderr)
            return FAILED
        lifeline.say({"ready": True})
        try:
            served.wait()
        finally:
            served.stop()
    return DONE


def _memory(text: str) -> int:
    try:
        return host.parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isthmus", description="Calls between JavaScript and Python over shared memory."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve", help="serve what a Python file exports", description="Serves what a Python file exports."
    )
    serve.add_argument("app", help="a Python file, or the name of a module")
    serve.add_argument(
        "--bus", metavar="NAME", help="the name to connect to (default: the app's, without its ending)"
    )
    serve.add_argument(
        "--memory",
        type=_memory,
        default="2GiB",
        metavar="SIZE",
        help="what arrays on the bus may take, like 512MiB (default: 2GiB)",
    )
    serve.add_argument(
        "--quota",
        type=_memory,
        metavar="SIZE",
        help="how much of it one peer may own (default: three quarters)",
    )
    serve.add_argument(
        "--allow",
        metavar="MODULE,…",
        help="modules that callers may import, with all that can be reached from them; '*' allows every one "
        "(default: none)",
    )
    serve.add_argument(
        "--no-numpy-memory",
        dest="numpy_memory",
        action="store_false",
        help="let numpy allocate as ever: results are copied into the bus, once",
    )
    serve.add_argument(
        "--pickle",
        action="store_true",
        help="exchange what has no value form as pickles with Python callers that ask for it too; "
        "any process of this user can run code in the host then",
    )
    serve.add_argument("--lifeline", type=int, metavar="FD", help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 failed, 2 usage."""
    arguments = _parser().parse_args(argv)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("isthmus: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.WARNING if arguments.lifeline is not None else logging.INFO)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
