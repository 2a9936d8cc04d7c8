"""Keeping worker processes at work: started, watched, restarted, rolled, drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from . import _isthmus
from .app import about

__all__ = ["Failed", "Post", "Process", "Restart", "Supervisor", "post_of_workers"]

log = logging.getLogger("isthmus")

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0  # seconds before a crew that died is started again
LONG_ENOUGH = 10  # times the delay; a crew that lived so long is taken for healthy: the delays begin anew
LOOK_EVERY = 0.25  # seconds between two looks at the files
LONGEST_LINE = 1 << 24  # bytes of what a crew says: its files, or a traceback


class Failed(Exception):
    """A crew could not be started. ``about`` is what it has said of the reason."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__(about["error"]["shown"].rstrip())
        self.about = about


class Process(Protocol):
    """What a crew needs of its process; asyncio's own has it."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


async def launch(command: Sequence[str], fds: Sequence[int]) -> Process:
    """Starts a process that inherits these files, and writes to where this one does."""
    return await asyncio.create_subprocess_exec(*command, pass_fds=fds, stdin=asyncio.subprocess.DEVNULL)


Restart = Literal["always", "on-failure", "never"]


@dataclass(eq=False)
class Post:
    """The place of a crew: how one is started there, when another is, and who fills it.

    One that ``answers`` is given a lifeline (``--lifeline FD``) and says on it when it serves. Others are at
    work once they are started.
    """

    name: str
    command: Sequence[str]
    answers: bool = True
    restart: Restart = "always"
    launch: Callable[[Sequence[str], Sequence[int]], Awaitable[Process]] = launch
    crew: Crew | None = None  # None: it died, and the next one is not there yet
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)  # the next one is to be started at once

    def is_done(self, code: int) -> bool:
        """Whether nobody takes the place of a crew that has ended with this exit code."""
        return self.restart == "never" or (self.restart == "on-failure" and code == 0)


def post_of_workers(command: Sequence[str], workers: range) -> Post:
    """The place of a process with these workers in it."""
    first, last = workers[0], workers[-1]
    name = f"worker {first}" if first == last else f"workers {first} to {last}"
    return Post(name, [*command, "--first", str(first), "--count", str(len(workers))])


class Crew:
    """The process at a post, and the workers in it."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.files: list[str] = []  # that its workers have imported
        self.code = 0  # the exit code, once it has ended; negative: the signal that killed it
        self._process: Process
        self._line: asyncio.StreamWriter | None = None
        self._told = False

    def __str__(self) -> str:
        return f"{self.post.name} (pid {self._process.pid})"

    async def start(self) -> None:
        """Starts the process, and returns once it is at work. Raises Failed."""
        if self.post.answers:
            await self._start_and_hear()
        else:
            self._process = await self.post.launch(self.post.command, [])

    async def _start_and_hear(self) -> None:
        ours, theirs = socket.socketpair()
        reader, self._line = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        with theirs:
            fd = theirs.fileno()
            self._process = await self.post.launch([*self.post.command, "--lifeline", str(fd)], [fd])
        try:
            said = json.loads(await reader.readline() or "{}")
        except asyncio.CancelledError:
            self.kill()
            await self.ended()
            raise
        if not said.get("ready"):
            how = f"{self} {await self.ended()} before it served"
            raise Failed(said if "error" in said else about(RuntimeError(how)))
        self.files = said["files"]

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

    async def leave(self, patience: float) -> None:
        """Has the workers finish what they have, and returns once they are gone; kills them after a time."""
        if not self._told:
            self._told = True
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            await asyncio.wait_for(self.ended(), patience)
        except asyncio.TimeoutError:
            log.warning("%s is killed: it did not end within %g s", self, patience)
            self.kill()
            await self.ended()


class Supervisor:
    """Keeps crews at their posts, on a bus.

    Those that answer come first and leave last, so that the others find them. What dies is started again, if
    its post says so, after a delay that doubles from 0.1 s to 30 s as long as it keeps dying early. Where
    some posts are not filled for ever, the end of all those is the end.

    SIGTERM and SIGINT have the workers finish the calls that they have, for at most ``patience`` seconds; a
    second one ends them at once. SIGHUP rolls: one crew after the other is replaced by a new one, which
    serves before the old one takes no more calls, or, if it does not answer, begins once the old one has
    ended. With ``reload``, so does a change of the files that the workers have imported.
    """

    def __init__(
        self,
        bus: str,
        posts: Sequence[Post],
        *,
        patience: float,
        reload: bool = False,
    ) -> None:
        self._bus = bus
        self._posts = posts
        self._patience = patience
        self._reload = reload
        self._crews: set[Crew] = set()  # all that were started and have not ended
        self._stop = asyncio.Event()
        self._roll = asyncio.Event()

    async def run(self, broker: _isthmus.Broker | None, ready: Callable[[], None]) -> None:
        """Returns when it is told to stop, or all is done. ``ready`` is called once those that answer serve.

        Raises Failed when one of the first crews can't be started, or one that is not to be replaced fails.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number, broker)
        loop.add_signal_handler(signal.SIGHUP, self._roll.set)
        stop = asyncio.ensure_future(self._stop.wait())
        jobs: list[asyncio.Future[None]] = []
        try:
            for answers in (True, False):
                jobs = [
                    asyncio.ensure_future(self._begin(post))
                    for post in self._posts
                    if post.answers is answers
                ]
                if not await _done_before(stop, jobs):
                    return
                if answers:
                    ready()
            log.info("serving '%s' with %s", self._bus, ", ".join(str(post.crew) for post in self._posts))
            kept = {asyncio.ensure_future(self._keep(post)): post.restart for post in self._posts}
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
                leaving = [crew for crew in self._crews if crew.post.answers is answers]
                await asyncio.gather(*(crew.leave(self._patience) for crew in leaving))

    def _told_to_stop(self, number: int, broker: _isthmus.Broker | None) -> None:
        if self._stop.is_set():
            for crew in self._crews:
                crew.kill()
            if broker is not None:
                broker.close()
            os._exit(128 + number)
        self._stop.set()

    async def _begin(self, post: Post) -> None:
        crew = Crew(post)
        await crew.start()
        self._crews.add(crew)
        post.crew = crew

    async def _keep(self, post: Post) -> None:
        """Starts anew what has died. Returns when it is done; raises Failed when that is no good end."""
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            crew, since = post.crew, loop.time()
            assert crew is not None
            why = f"{crew} {await crew.ended()}"
            self._crews.discard(crew)
            async with post.changing:
                if post.crew is not crew:  # it was replaced
                    continue
                post.crew = None
            if post.is_done(crew.code):
                if crew.code != 0:
                    raise Failed(about(RuntimeError(f"{why}, and is not to be started again")))
                log.info("%s: it is done", why)
                return
            if loop.time() - since > LONG_ENOUGH * delay:
                delay = FIRST_DELAY
            while post.crew is None:
                log.warning("%s; the next one is started in %g s", why, delay)
                post.hurry.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(post.hurry.wait(), delay)
                delay = min(2 * delay, LONGEST_DELAY)
                try:
                    await self._begin(post)
                except Failed as failure:
                    why = f"{crew} could not be replaced: {failure}"
            log.info("%s is started", post.crew)

    async def _roll_when_told(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            try:
                for post in self._posts:
                    await self._replace(post)
                log.info("rolled '%s'", self._bus)
            except Failed as failure:
                log.error("'%s' goes on with the workers that it has: %s", self._bus, failure)

    async def _replace(self, post: Post) -> None:
        """A new crew serves before the old one takes no more calls, so callers always find one."""
        async with post.changing:
            before = post.crew
            if before is None:
                post.hurry.set()
                return
            if not post.answers:
                await before.leave(self._patience)
            await self._begin(post)
        await before.leave(self._patience)
        self._crews.discard(before)

    async def _watch(self) -> None:
        """Rolls when a file that a worker has imported was changed."""
        seen: dict[str, int] = {}
        while True:
            for file in {file for crew in self._crews for file in crew.files}:
                with contextlib.suppress(OSError):
                    changed = os.stat(file).st_mtime_ns
                    if seen.setdefault(file, changed) != changed:
                        seen[file] = changed
                        log.info("%s has changed", file)
                        self._roll.set()
            await asyncio.sleep(LOOK_EVERY)


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
