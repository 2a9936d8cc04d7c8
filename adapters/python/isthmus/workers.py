"""The workers of one process: itself, or threads or sub-interpreters in it. Each is a peer and serves."""

from __future__ import annotations

import argparse
import signal
import sys
import sysconfig
from types import FrameType

from .app import DONE, FAILED, Lifeline, about, about_loading, imported_files, load
from .errors import ConnectError
from .host import Host

__all__ = ["KINDS", "check_kind", "work"]

KINDS = ("process", "interpreter", "thread")


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


def work(arguments: argparse.Namespace) -> int:
    """What the process of a crew does: it serves until SIGTERM has it drain, or its supervisor is gone."""
    lifeline = Lifeline(arguments.lifeline)
    lifeline.watch(None)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # of the terminal: the supervisor sees to it
    numbers = range(arguments.first, arguments.first + arguments.count)
    return _work_here(arguments, lifeline, numbers)


def _work_here(arguments: argparse.Namespace, lifeline: Lifeline, numbers: range) -> int:
    try:
        load(arguments.app)
    except (Exception, SystemExit) as error:
        lifeline.say(about_loading(arguments.app, error))
        return FAILED
    hosts = [
        Host(
            arguments.bus,
            allow=arguments.allow,
            numpy_memory=arguments.numpy_memory,
            pickle=arguments.pickle,
            join=True,
            worker=number,
        )
        for number in numbers
    ]

    def drain(number: int, frame: FrameType | None) -> None:
        for host in hosts:
            host.drain()

    signal.signal(signal.SIGTERM, drain)
    try:
        for host in hosts:
            host.start()
        lifeline.say({"ready": True, "files": imported_files()})
        for host in hosts:
            host.wait()
    except ConnectError as error:
        lifeline.say(about(error))
        return FAILED
    finally:
        for host in hosts:
            host.stop()
    return DONE
