"""Keeping worker processes at work: started, watched, restarted, rolled, drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from . import _isthmus
from .app import FAILED, about

__all__ = ["Berth", "Failed", "Process", "Restart", "Supervisor", "berth_of_workers"]

log = logging.getLogger("isthmus")

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0  # seconds before a crew that died is started again
LONG_ENOUGH = 10  # times the delay; a crew that lived so long is taken for healthy: the delays begin anew
LOOK_EVERY = 0.25  # seconds between two looks at the files
TICK = 10_000_000  # nanoseconds that the time of a change may be behind the clock: the kernel's longest tick
UNKNOWN = -1  # nanoseconds: no time of a change
LAST_LINE = 0.5  # seconds for what a crew said just before it ended
FAILING = 3.0  # seconds for a crew to end that has said that it can't serve
WELL = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of what was told to end; the last is a shell's
LONGEST_LINE = 1 << 24  # bytes of what a crew says: its files, or a traceback


class Failed(Exception):
    """A crew could not be started. ``about`` is what it has said of the reason."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__(about["error"]["shown"].rstrip())
        self.about = about


class Process(Protocol):
    """What a crew needs of its process."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Child:
    """A process that writes to where this one does.

    Signals go past asyncio, which first asks the system whether the process has ended: where it has, the
    answer takes the exit code away from whoever waits for it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def launch(cls, command: Sequence[str], fds: Sequence[int]) -> Child:
        """Starts one that inherits these files."""
        return cls(
            await asyncio.create_subprocess_exec(*command, pass_fds=fds, stdin=asyncio.subprocess.DEVNULL)
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._process.returncode is None:
            os.kill(self.pid, number)


Restart = Literal["always", "on-failure", "never"]


@dataclass(eq=False)
class Berth:
    """The place of a crew: how one is started there, when another is, and who fills it.

    One that ``answers`` is given a lifeline (``--lifeline FD``) and says on it when it serves. Others are at
    work once they are started.
    """

    name: str
    command: Sequence[str]
    answers: bool = True
    restart: Restart = "always"
    launch: Callable[[Sequence[str], Sequence[int]], Awaitable[Process]] = Child.launch
    crew: Crew | None = None  # None: it died, and the next one is not there yet
    files: dict[str, int] = field(default_factory=dict)  # what crews have imported, and of when: or UNKNOWN
    renewed: dict[str, int] = field(default_factory=dict)  # the changes for which a crew was called stale
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    hurry: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # the next one is to be started (again) at once

    def is_done(self, code: int) -> bool:
        """Whether nobody takes the place of a crew that has ended with this exit code."""
        return self.restart == "never" or (self.restart == "on-failure" and code == 0)

    def remember(self, files: Iterable[str], since: int) -> None:
        """A crew has imported these files, some at this time, others later."""
        for file in files:
            with contextlib.suppress(OSError):
                found = os.stat(file)
                changed = found.st_mtime_ns
                if self.renewed.get(file) == changed:
                    continue  # whoever has another one is about to leave
                # What came here while it was imported may have been read before that, whatever its age.
                is_known = max(changed, found.st_ctime_ns) < since - TICK
                if is_known and self.files.setdefault(file, changed) == changed:
                    continue
                self.files[file] = UNKNOWN

    def is_stale(self, file: str, changed: int) -> bool:
        """Whether the crew may have imported what the file was before this change: said once of a change."""
        if self.files.get(file, changed) == changed:
            return False
        self.files[file] = self.renewed[file] = changed
        return True


def berth_of_workers(command: Sequence[str], workers: range) -> Berth:
    """The place of a process with these workers in it."""
    first, last = workers[0], workers[-1]
    name = f"worker {first}" if first == last else f"workers {first} to {last}"
    return Berth(name, [*command, "--first", str(first), "--count", str(len(workers))])


class Crew:
    """The process at a berth, and the workers in it."""

    def __init__(self, berth: Berth) -> None:
        self.berth = berth
        self.code = 0  # the exit code, once it has ended; negative: the signal that killed it
        self._process: Process
        self._line: asyncio.StreamWriter | None = None
        self._listening: asyncio.Future[None] | None = None
        self.is_told = False  # to leave
        self._is_reported = False  # that it has not ended well

    def __str__(self) -> str:
        return f"{self.berth.name} (pid {self._process.pid})"

    async def start(self) -> None:
        """Starts the process, and returns once it is at work. Raises Failed."""
        try:
            if self.berth.answers:
                await self._start_and_hear()
            else:
                self._process = await self.berth.launch(self.berth.command, [])
        except OSError as error:
            raise Failed(about(OSError(f"{self.berth.name} could not be started: {error}"))) from error

    async def _start_and_hear(self) -> None:
        ours, theirs = socket.socketpair()
        reader, self._line = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        with theirs:
            fd = theirs.fileno()
            self._process = await self.berth.launch([*self.berth.command, "--lifeline", str(fd)], [fd])
        started = time.time_ns()
        try:
            said = await self._hear(reader)
            while "since" in said:  # of an interpreter that is ahead of the others
                self.berth.remember(said["files"], said["since"])
                said = await self._hear(reader)
            self.berth.remember(said.get("files", ()), started)
            if "error" in said:
                await self.leave(FAILING, well=(*WELL, FAILED))
                raise Failed(said)
            if "ready" not in said:
                raise Failed(about(RuntimeError(f"{self} {await self.ended()} before it served")))
            self._listening = asyncio.ensure_future(self._listen(reader))
        except asyncio.CancelledError:
            self.kill()
            await self.ended()
            raise

    async def _hear(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        """What it says; nothing when it has ended, although a child of its own may hold the line."""
        line = asyncio.ensure_future(reader.readline())
        end = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({line, end}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({line}, timeout=LAST_LINE)
            said: dict[str, Any] = json.loads(line.result()) if line.done() else {}
        except ValueError:  # it died while it said it
            return {}
        finally:
            line.cancel()
            end.cancel()
        return said

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """What it says from then on: the files that it has imported since it looked last."""
        while line := await reader.readline():
            with contextlib.suppress(ValueError):  # it died while it said it
                said = json.loads(line)
                self.berth.remember(said["files"], said["since"])

    async def ended(self) -> str:
        """Waits until the process has ended; how it did, in words."""
        self.code = await self._process.wait()
        if self._line is not None:
            self._line.close()
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        return f"was killed by {signal.Signals(-self.code).name}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def leave(self, patience: float, well: Collection[int] = WELL) -> None:
        """Has the workers finish what they have, and returns once they are gone; kills them after a time.

        It is told in the log when they end otherwise than ``well``.
        """
        if not self.is_told:
            self.is_told = True
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            how = await asyncio.wait_for(self.ended(), patience)
        except asyncio.TimeoutError:
            log.warning("%s is killed: it did not end within %g s", self, patience)
            self._is_reported = True
            self.kill()
            await self.ended()
            return
        if self.code not in well and not self._is_reported:
            self._is_reported = True
            log.warning("%s %s once it was told to end", self, how)


class Supervisor:
    """Keeps crews at their berths, on a bus.

    Those that answer come first and leave last, so that the others find them. What dies is started again, if
    its berth says so, after a delay that doubles from 0.1 s to 30 s as long as it keeps dying early. Where
    some berths are not filled for ever, the end of all those is the end.

    SIGTERM and SIGINT have the workers finish the calls that they have, for at most ``patience`` seconds;
    a second one ends them at once. SIGHUP of a terminal that is closed does as SIGTERM. Else it rolls:
    one crew after the other is replaced by a new one, which serves before the old one takes no more
    calls, or, if it does not answer, begins once the old one has ended. With ``reload``, so does a change
    of the files that the workers have imported.
    """

    def __init__(
        self,
        bus: str,
        berths: Sequence[Berth],
        *,
        patience: float,
        reload: bool = False,
        has_parent: bool = False,
    ) -> None:
        self._bus = bus
        self._berths = berths
        self._patience = patience
        self._reload = reload
        self._has_parent = has_parent
        self._crews: set[Crew] = set()  # all that were started and have not ended
        self._leaving: set[asyncio.Future[None]] = set()  # who were replaced, and may take their time
        self._stop = asyncio.Event()
        self._roll = asyncio.Event()

    async def run(self, broker: _isthmus.Broker | None, ready: Callable[[], None]) -> None:
        """Returns when it is told to stop, or all is done. ``ready`` is called once those that answer serve.

        Raises Failed when one of the first crews can't be started, or one that is not to be replaced fails.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number, broker)
        if self._has_parent:  # which the terminal sends SIGINT too, and which ends this one when it sees fit
            loop.add_signal_handler(signal.SIGINT, lambda: None)
        had_terminal = _has_terminal()
        loop.add_signal_handler(
            signal.SIGHUP,
            lambda: self._stop.set() if had_terminal and not _has_terminal() else self._roll.set(),
        )
        stop = asyncio.ensure_future(self._stop.wait())
        jobs: list[asyncio.Future[None]] = []
        try:
            for answers in (True, False):
                jobs = [
                    asyncio.ensure_future(self._begin(berth))
                    for berth in self._berths
                    if berth.answers is answers
                ]
                if not await _done_before(stop, jobs):
                    return
                if answers:
                    ready()
            log.info("serving '%s' with %s", self._bus, ", ".join(str(berth.crew) for berth in self._berths))
            kept = {asyncio.ensure_future(self._keep(berth)): berth.restart for berth in self._berths}
            jobs = [*kept, asyncio.ensure_future(self._roll_when_told())]
            if self._reload:
                jobs.append(asyncio.ensure_future(self._watch()))
            ending = [job for job, restart in kept.items() if restart != "always"]
            await _done_before(stop, ending or jobs, beside=jobs)
        finally:
            stop.cancel()
            for job in jobs:
                job.cancel()
            await asyncio.gather(stop, *jobs, return_exceptions=True)
            for answers in (False, True):
                leaving = [crew for crew in self._crews if crew.berth.answers is answers]
                await asyncio.gather(*(crew.leave(self._patience) for crew in leaving))

    def _told_to_stop(self, number: int, broker: _isthmus.Broker | None) -> None:
        if self._stop.is_set():
            for crew in self._crews:
                crew.kill()
            if broker is not None:
                broker.close()
            os._exit(128 + number)
        self._stop.set()

    async def _begin(self, berth: Berth) -> None:
        crew = Crew(berth)
        await crew.start()
        self._crews.add(crew)
        berth.crew = crew

    async def _keep(self, berth: Berth) -> None:
        """Starts anew what has died. Returns when it is done; raises Failed when that is no good end."""
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            crew, since = berth.crew, loop.time()
            assert crew is not None
            why = f"{crew} {await crew.ended()}"
            self._crews.discard(crew)
            async with berth.changing:
                if berth.crew is not crew:  # it was replaced
                    continue
                berth.crew = None
            if berth.is_done(crew.code) and not crew.is_told:  # else it has left for one that did not come
                if crew.code != 0:
                    raise Failed(about(RuntimeError(f"{why}, and is not to be started again")))
                log.info("%s: it is done", why)
                return
            if loop.time() - since > LONG_ENOUGH * delay:
                delay = FIRST_DELAY
            while berth.crew is None:
                log.warning("%s; the next one is started in %g s", why, delay)
                berth.hurry.clear()
                await _before(berth.hurry, asyncio.sleep(delay))
                delay = min(2 * delay, LONGEST_DELAY)
                try:
                    berth.hurry.clear()
                    while not await _before(
                        berth.hurry, self._begin(berth)
                    ):  # begun again: it changed meanwhile
                        berth.hurry.clear()
                except Failed as failure:
                    why = f"{crew} could not be replaced: {failure}"
            if berth.hurry.is_set():  # it was ready in the moment in which it was out of date
                self._roll.set()
            log.info("%s is started", berth.crew)

    async def _roll_when_told(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            try:
                # Told again meanwhile, it begins anew: what it starts is out of date, or may never serve.
                if await _before(self._roll, self._replace_all()):
                    log.info("rolled '%s'", self._bus)
            except Failed as failure:
                log.error("'%s' goes on with the workers that it has: %s", self._bus, failure)

    async def _replace_all(self) -> None:
        for berth in self._berths:
            await self._replace(berth)

    async def _replace(self, berth: Berth) -> None:
        """A new crew serves before the old one takes no more calls, so callers always find one."""
        async with berth.changing:
            before = berth.crew
            if before is None:
                berth.hurry.set()
                return
            if not berth.answers:
                await before.leave(self._patience)
            await self._begin(berth)
        leaving = asyncio.ensure_future(self._dismiss(before))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _dismiss(self, crew: Crew) -> None:
        await crew.leave(self._patience)
        self._crews.discard(crew)

    async def _watch(self) -> None:
        """Rolls when a file that a worker has imported was changed."""
        while True:
            for file in {file for berth in self._berths for file in berth.files}:
                if self._has_changed(file):
                    log.info("%s has changed", file)
                    self._roll.set()
            await asyncio.sleep(LOOK_EVERY)

    def _has_changed(self, file: str) -> bool:
        with contextlib.suppress(OSError):
            changed = os.stat(file).st_mtime_ns
            stale = [berth.is_stale(file, changed) for berth in self._berths]
            return any(stale)
        return False  # it is being written


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _before(event: asyncio.Event, job: Coroutine[Any, Any, None]) -> bool:
    """Whether the job was done before the event came; if not, it is cancelled. Raises what it has raised."""
    task = asyncio.ensure_future(job)
    coming = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, coming}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        coming.cancel()
        is_done = task.done()
        if not is_done:
            task.cancel()
            await asyncio.wait({task})
    if is_done:
        task.result()
    return is_done


async def _done_before(
    stop: asyncio.Future[Any],
    jobs: Collection[asyncio.Future[None]],
    beside: Collection[asyncio.Future[None]] = (),
) -> bool:
    """Whether all jobs were done before it was told to stop. Raises what one of them or beside has raised."""
    left, running = set(jobs), {*jobs, *beside}
    while left and not stop.done():
        await asyncio.wait({stop, *running}, return_when=asyncio.FIRST_COMPLETED)
        for job in [job for job in running if job.done()]:
            job.result()
            running.discard(job)
            left.discard(job)
    return not stop.done()
