"""The stages of a pipeline: their processes, all of which end with this one, and the log they share."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO

from . import _isthmus
from .app import DONE, FAILED, USAGE
from .errors import ConnectError
from .keeper import Keeper
from .pipeline import Mistake, Pipeline, Stage, read
from .supervisor import Berth, Failed, Supervisor

__all__ = ["up"]

log = logging.getLogger("isthmus")

LONGEST_LINE = 1 << 14  # bytes; what is longer goes on in the next line
LAST_WORDS = 5.0  # seconds for what has left the group of its stage and still holds its output
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Log:
    """One output for many writers: whole lines, each with the name of its writer in front."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._coloured = os.isatty(fd) and "NO_COLOR" not in os.environ

    def prefix(self, name: str, colour: int | None = None) -> bytes:
        if colour is None or not self._coloured:
            return f"{name} | ".encode()
        return f"\x1b[{COLOURS[colour % len(COLOURS)]}m{name} |\x1b[0m ".encode()

    def write(self, prefix: bytes, lines: Sequence[bytes]) -> None:
        text = b"".join(prefix + line + b"\n" for line in lines)
        try:
            while text and self._fd is not None:
                text = text[_write(self._fd, text) :]
        except OSError:
            self._fd = None  # whoever read the log is gone; the pipeline need not be


def _write(fd: int, text: bytes) -> int:
    """How much was written; also where the file does not block, as Node leaves terminals."""
    try:
        return os.write(fd, text)
    except BlockingIOError:
        select.select([], [fd], [])
        return 0


class Messages(logging.Handler):
    """What the supervisor has to say, in the log."""

    def __init__(self, shared: Log) -> None:
        super().__init__()
        self._log = shared

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(self._log.prefix("isthmus"), self.format(record).encode().split(b"\n"))


class Lines(asyncio.Protocol):
    """Reads the output of one process into the log, also a last line without an end."""

    def __init__(self, shared: Log, prefix: bytes) -> None:
        self._log = shared
        self._prefix = prefix
        self._rest = b""
        self._ended = asyncio.Event()
        self._transport: asyncio.BaseTransport

    @staticmethod
    async def read(pipe: BinaryIO, shared: Log, prefix: bytes) -> Lines:
        lines = Lines(shared, prefix)
        await asyncio.get_running_loop().connect_read_pipe(lambda: lines, pipe)
        return lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def ended(self) -> None:
        """Returns once all has been read, or what still holds the other end has been given time enough."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), LAST_WORDS)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        self._log.write(self._prefix, [part for line in lines for part in _parts(line)])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._log.write(self._prefix, [self._rest])
        self._ended.set()


def _parts(line: bytes) -> list[bytes]:
    return [line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE)] or [line]


class Guard:
    """A process that outlives this one for a moment, and ends what this one has started.

    Each process of a stage leads a group of its own and says so on a pipe before it becomes the stage's
    program. That pipe ends for the guard when all who could still say something are gone, however they went:
    so it knows every group there is. What has ended in good order is said a second time.
    """

    PROGRAM = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    groups ^= {int(line)}
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
    LAUNCHER = ("/bin/sh", "-c", 'echo $$ >&0; exec "$@" </dev/null', "sh")

    def __enter__(self) -> Guard:
        theirs, self.fd = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", self.PROGRAM]
        nowhere = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=nowhere, stderr=nowhere, cwd="/", start_new_session=True
        )
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        self._process.wait()

    def end(self, group: int) -> None:
        """Kills what a process that has ended has left behind in its group."""
        _kill_group(group)
        with contextlib.suppress(BrokenPipeError):
            os.write(self.fd, b"%d\n" % group)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class StageProcess:
    """One process of a stage. Its end is that of its group, and of what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, lines: Lines, guard: Guard) -> None:
        self._process = process
        self._lines = lines
        self._guard = guard
        self._end = asyncio.ensure_future(self._ended())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _ended(self) -> int:
        code = await self._process.wait()
        self._guard.end(self.pid)
        await self._lines.ended()
        return code

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        _kill_group(self.pid)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    ours, theirs = os.pipe()
    return open(ours, "rb", 0), open(theirs, "wb", 0)


class Stages:
    """Starts the processes of a pipeline's stages."""

    def __init__(self, pipeline: Pipeline, shared: Log, guard: Guard) -> None:
        self._pipeline = pipeline
        self._log = shared
        self._guard = guard

    def berths(self) -> list[Berth]:
        return [
            self._berth(stage, worker, colour)
            for colour, stage in enumerate(self._pipeline.stages)
            for worker in range(stage.workers)
        ]

    def _berth(self, stage: Stage, worker: int, colour: int) -> Berth:
        name = f"{stage.name}.{worker}"
        prefix = self._log.prefix(name, colour)
        place = {
            "ISTHMUS_BUS": self._pipeline.bus,
            "ISTHMUS_STAGE": stage.name,
            "ISTHMUS_WORKER": str(worker),
        }

        async def launch(command: Sequence[str], fds: Sequence[int]) -> StageProcess:
            said, output = _pipe()
            with output:
                lines = await Lines.read(said, self._log, prefix)
                process = await asyncio.create_subprocess_exec(
                    *Guard.LAUNCHER,
                    *command,
                    pass_fds=fds,
                    stdin=self._guard.fd,
                    stdout=output,
                    stderr=output,
                    cwd=self._pipeline.folder,
                    env={**stage.environment, **place},
                    start_new_session=True,
                )
            return StageProcess(process, lines, self._guard)

        command = [*stage.command, *(["--first", str(worker), "--count", "1"] if stage.serves else [])]
        return Berth(name, command, stage.serves, stage.restart, launch)


def up(arguments: argparse.Namespace) -> int:
    """Runs the stages of a file until it is told to stop, or they are done. The exit code."""
    try:
        pipeline = read(arguments.file)
    except Mistake as mistake:
        print(f"isthmus: {mistake}", file=sys.stderr)
        return USAGE
    if arguments.check:
        processes = sum(stage.workers for stage in pipeline.stages)
        print(f"{arguments.file}: {len(pipeline.stages)} stages, {processes} processes, bus '{pipeline.bus}'")
        return DONE
    try:
        return _run(pipeline)
    except ConnectError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        return FAILED


def _run(pipeline: Pipeline) -> int:
    shared = Log(sys.stdout.fileno())
    log.handlers[:] = [Messages(shared)]
    is_open = not any(stage.serves for stage in pipeline.stages)
    broker = _isthmus.Broker(pipeline.bus, pipeline.memory, 0, pipeline.quota, is_open)
    keeper = Keeper(pipeline.bus)
    try:
        with Guard() as guard:
            berths = Stages(pipeline, shared, guard).berths()
            supervisor = Supervisor(pipeline.bus, berths, patience=pipeline.drain)
            asyncio.run(supervisor.run(broker, keeper.start))
    except Failed as failure:
        log.error("%s", failure)
        return FAILED
    finally:
        keeper.stop()
        broker.close()
    log.info("stopped serving '%s'", pipeline.bus)
    return DONE
