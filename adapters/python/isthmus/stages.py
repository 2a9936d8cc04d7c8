"""The stages of a pipeline: their processes, all of which end with this one, and the log they share."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO, cast

from . import _isthmus
from .app import DONE, FAILED, USAGE
from .errors import ConnectError
from .keeper import Keeper
from .pipeline import Mistake, Pipeline, Stage, read
from .supervisor import Berth, Failed, Supervisor

__all__ = ["up"]

log = logging.getLogger("isthmus")

LONGEST_LINE = 1 << 14  # bytes; what is longer goes on in the next line
MOST_WAITING = 1 << 20  # bytes of the log; the stages wait to say more
LAST_WORDS = 5.0  # seconds for what has left the group of its stage and still holds its output
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Log:
    """One output for many writers: whole lines, each with the name of its writer in front.

    A thread writes them: an output that nobody reads holds up the stages, and not who watches them.
    """

    def __init__(self, fd: int) -> None:
        self._coloured = os.isatty(fd) and "NO_COLOR" not in os.environ
        self._texts: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._size = 0  # bytes that wait
        self._waiters: list[Callable[[], object]] = []  # for room
        self._thread = threading.Thread(target=self._pump, args=(fd,), name="isthmus-log", daemon=True)
        self._thread.start()

    def prefix(self, name: str, colour: int | None = None) -> bytes:
        if colour is None or not self._coloured:
            return f"{name} | ".encode()
        return f"\x1b[{COLOURS[colour % len(COLOURS)]}m{name} |\x1b[0m ".encode()

    def write(self, prefix: bytes, lines: Sequence[bytes]) -> None:
        text = b"".join(prefix + line + b"\n" for line in lines)
        with self._lock:
            self._size += len(text)
        self._texts.put(text)

    @property
    def is_full(self) -> bool:
        return self._size > MOST_WAITING

    def when_there_is_room(self, call: Callable[[], object]) -> None:
        """Calls it, from this thread or from the one that writes."""
        with self._lock:
            if self.is_full:
                self._waiters.append(call)
                return
        call()

    def close(self) -> None:
        """Returns once all is written, or nobody has read it for some seconds."""
        self._texts.put(None)
        self._thread.join(LAST_WORDS)

    def _pump(self, fd: int) -> None:
        is_read = True
        while (text := self._texts.get()) is not None:
            is_read = is_read and _write_all(fd, text)
            with self._lock:
                self._size -= len(text)
                waiters = [] if self.is_full else self._waiters
                self._waiters = self._waiters if self.is_full else []
            for call in waiters:
                call()


def _write_all(fd: int, text: bytes) -> bool:
    """Whether that was possible: whoever read the log may be gone, and the pipeline need not be."""
    try:
        while text:
            select.select([], [fd], [])  # whoever shares the file may have made it one that does not block
            text = text[os.write(fd, text[: select.PIPE_BUF]) :]
    except OSError:
        return False
    return True


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
        self._transport: asyncio.ReadTransport

    @staticmethod
    async def read(pipe: BinaryIO, shared: Log, prefix: bytes) -> Lines:
        lines = Lines(shared, prefix)
        await asyncio.get_running_loop().connect_read_pipe(lambda: lines, pipe)
        return lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    async def ended(self) -> None:
        """Returns once all has been read, or what still holds the other end has been given time enough."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), 0 if self._log.is_full else LAST_WORDS)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = re.split(rb"\r?\n|\r(?!$)", self._rest + data)
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        self._log.write(self._prefix, [part for line in lines for part in _parts(line)])
        if self._log.is_full:
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._log.when_there_is_room(lambda: _call_soon(loop, self._go_on))

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._log.write(self._prefix, [self._rest])
        self._ended.set()


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # it was closed
        loop.call_soon_threadsafe(call)


def _parts(line: bytes) -> list[bytes]:
    return [line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE)] or [line]


class Guard:
    """A process that outlives this one for a moment, and ends what this one has started.

    Each process of a stage leads a group of its own and says so on a pipe before it becomes the stage's
    program. That pipe ends for the guard when all who could still say something are gone, however they went:
    so it knows every group there is, but for those that are said to have ended.
    """

    PROGRAM = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
    LAUNCHER = ("/bin/sh", "-c", 'echo +$$ >&0; exec "$@" </dev/null', "sh")

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
            os.write(self.fd, b"-%d\n" % group)

    def check(self) -> None:
        """Raises OSError when it is gone: what is started then would stay behind, should this process die."""
        if self._process.poll() is not None:
            raise OSError("the process that ends the stages should this one die was killed: start `up` again")


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class StageProcess:
    """One process of a stage. Its end is that of its group, and of what it has said."""

    def __init__(self, process: asyncio.subprocess.Process, lines: Lines, guard: Guard) -> None:
        self._process = process
        self._lines = lines
        self._guard = guard
        self._was_told = False
        self._end = asyncio.ensure_future(self._ended())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _ended(self) -> int:
        code = await self._process.wait()
        # What a shell or npm has started has the same time to finish; nothing tells of a group's end.
        while self._was_told and _lives(self.pid):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._guard.end(self.pid)
        await self._lines.ended()
        return code

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        self._was_told = True
        os.killpg(self.pid, signal.SIGTERM)

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

        environment = {**stage.environment, **place}
        # The launcher's shell drops them.
        odd = [f"{name}={value}" for name, value in environment.items() if not name.isidentifier()]

        async def launch(command: Sequence[str], fds: Sequence[int]) -> StageProcess:
            self._guard.check()
            said, output = _pipe()
            with output:
                lines = await Lines.read(said, self._log, prefix)
                process = await asyncio.create_subprocess_exec(
                    *Guard.LAUNCHER,
                    *(["env", *odd] if odd else []),
                    *command,
                    pass_fds=fds,
                    stdin=self._guard.fd,
                    stdout=output,
                    stderr=output,
                    cwd=self._pipeline.folder,
                    env=environment,
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
    try:
        return _run_stages(pipeline, shared)
    finally:
        shared.close()


def _run_stages(pipeline: Pipeline, shared: Log) -> int:
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
