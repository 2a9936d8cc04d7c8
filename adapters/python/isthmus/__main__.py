"""The command line: ``python -m isthmus``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__, _isthmus, host
from .app import DONE, NO_SUCH_BUS, USAGE, Lifeline, about, about_loading, import_app, warn_of_no_exports
from .caller import Bus
from .errors import ConnectError
from .keeper import Keeper
from .stages import up
from .supervisor import Failed, Supervisor, berth_of_workers
from .workers import KINDS, WORK, arguments_of_crew, check_kind, command_of_crew, host_of

log = logging.getLogger("isthmus")


def _serve(arguments: argparse.Namespace) -> int:
    if not arguments.bus:
        arguments.bus = re.sub(r"[^A-Za-z0-9._-]", "-", Path(arguments.app).stem).lstrip(".") or "isthmus"
    lifeline = Lifeline(arguments.lifeline)
    lifeline.watch()
    if arguments.workers is None and arguments.worker_kind == "process" and not arguments.reload:
        return _serve_here(arguments, lifeline)
    return _serve_with_workers(arguments, lifeline)


def _fail(lifeline: Lifeline, said: dict[str, Any]) -> int:
    """Tells the parent, or a person, what keeps it from serving. The exit code."""
    if lifeline.has_parent:
        lifeline.say(said)
    else:
        print(f"isthmus: {said['error']['shown'].rstrip()}", file=sys.stderr)
    code: int = said["error"]["code"]
    return code


def _serve_here(arguments: argparse.Namespace, lifeline: Lifeline) -> int:
    try:
        import_app(arguments.app)
    except (Exception, SystemExit) as error:
        return _fail(lifeline, about_loading(arguments.app, error))
    warn_of_no_exports(arguments.app)
    served = host_of(arguments, memory=arguments.memory, quota=arguments.quota, join=arguments.join)
    with host.stopped_by_signals(served, lifeline.has_parent):
        try:
            served.start()
        except ConnectError as error:
            return _fail(lifeline, about(error))
        lifeline.say({"ready": True})
        try:
            served.wait()
        finally:
            served.stop()
    return DONE


def _serve_with_workers(arguments: argparse.Namespace, lifeline: Lifeline) -> int:
    name, kind, count = arguments.bus, arguments.worker_kind, arguments.workers or 1
    try:
        check_kind(kind)
    except RuntimeError as error:
        return _fail(lifeline, about(error, code=USAGE))
    command = command_of_crew(
        arguments.app,
        name,
        kind=kind,
        allow=arguments.allow,
        numpy_memory=arguments.numpy_memory,
        pickle=arguments.pickle,
        reload=arguments.reload,
    )
    crews = [range(i, i + 1) for i in range(count)] if kind == "process" else [range(count)]
    supervisor = Supervisor(
        name,
        [berth_of_workers(command, workers) for workers in crews],
        patience=arguments.drain,
        reload=arguments.reload,
        has_parent=lifeline.has_parent,
    )
    broker = keeper = None

    def ready() -> None:
        if keeper is not None:
            keeper.start()
        lifeline.say({"ready": True})

    try:
        if not arguments.join:
            broker = _isthmus.Broker(name, arguments.memory, 0, arguments.quota or 0)
            keeper = Keeper(name)
        asyncio.run(supervisor.run(broker, ready))
    except ConnectError as error:
        return _fail(lifeline, about(error))
    except Failed as failure:
        return _fail(lifeline, failure.about)
    finally:
        if keeper is not None:
            keeper.stop()
        if broker is not None:
            broker.close()
    log.info("stopped serving '%s'", name)
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    """Prints who serves and who calls on each bus."""
    found = False
    for name in sorted([arguments.bus] if arguments.bus else _isthmus.bus_names()):
        try:
            bus = Bus(name, onlooker=True)
        except ConnectError as error:
            if arguments.bus:
                print(f"isthmus: {error}", file=sys.stderr)
                return NO_SUCH_BUS
            log.warning("%s", error)
            continue
        with bus:
            found = True
            peers = [peer for peer in bus.peers() if peer["pid"] != os.getpid()]
            count = f"{len(peers)} peer{'s' * (len(peers) != 1)}"
            print(name if any(peer["exports"] for peer in peers) else f"{name} (no services; {count})")
            for peer in peers:
                what = f"{peer['name']}, pid {peer['pid']}"
                if peer["worker"] is not None:
                    exports = ", ".join(sorted(peer["exports"])) or "nothing"
                    print(f"  worker {peer['worker']} of {what}, {peer['load']} calls: {exports}")
                else:
                    exports = ": " + ", ".join(sorted(peer["exports"])) if peer["exports"] else ""
                    print(f"  {what}{exports}")
    if not found:
        print("no bus is being served")
    return DONE


def _memory(text: str) -> int:
    try:
        return host.parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 64:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of workers: a bus has places for 1 to 63")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isthmus", description="Calls between JavaScript and Python over shared memory."
    )
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
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
    serve.add_argument(
        "--join",
        action="store_true",
        help="serve beside others on a bus that is being served already",
    )
    serve.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="serve with so many workers, which are watched and started again when they die; SIGHUP replaces "
        "them one by one, SIGTERM lets them finish what they have",
    )
    serve.add_argument(
        "--worker-kind",
        choices=KINDS,
        default=KINDS[0],
        help="what a worker is: a process, a sub-interpreter with a GIL of its own (Python 3.12 or later), "
        "or a thread (free-threaded builds)",
    )
    serve.add_argument(
        "--reload",
        action="store_true",
        help="replace the workers when a file that they have imported changes",
    )
    serve.add_argument(
        "--drain",
        type=_seconds,
        default=30,
        metavar="SECONDS",
        help="how long workers that are replaced or stopped may take for the calls that they have "
        "(default: 30)",
    )
    serve.add_argument("--lifeline", type=int, metavar="FD", help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)
    pipeline = commands.add_parser(
        "up",
        help="run the stages of a pipeline, which a file names",
        description="Runs the stages of a pipeline on a bus of their own, with the output of all in one log. "
        "SIGTERM and Ctrl-C let them finish, SIGHUP replaces them one by one. docs/pipelines.md tells what "
        "the file may say.",
    )
    pipeline.add_argument("file", help="such as pipeline.toml")
    pipeline.add_argument("--check", action="store_true", help="only check the file")
    pipeline.set_defaults(run=up, lifeline=None)
    listing = commands.add_parser(
        "ls",
        help="list the buses, their services and workers, and who is there",
        description="Lists the buses that are served: services, their workers and exports, and callers.",
    )
    listing.add_argument("bus", nargs="?", help="only this one")
    listing.set_defaults(run=_list, lifeline=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 failed, 2 usage, 3 no such bus."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = arguments_of_crew(argv[1:]) if argv[:1] == [WORK] else _parser().parse_args(argv)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("isthmus: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.WARNING if arguments.lifeline is not None else logging.INFO)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
