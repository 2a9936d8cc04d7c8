"""Keeping worker processes at work: started, watched, restarted, rolled, drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _isthmus
from .app import about

__all__ = ["Failed", "Supervisor"]

log = logging.getLogger("isthmus")

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0  # seconds before a crew that died is started again
LONG_ENOUGH = 10.0  # seconds after which a crew that dies is taken for a healthy one: the delays begin anew
LOOK_EVERY = 0.25  # seconds between two looks at the files
LONGEST_LINE = 1 << 24  # bytes of what a crew says: its files, or a traceback


class Failed(Exception):
    """A crew could not be started. ``about`` is what it has said of the reason."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__(about["error"]["shown"].rstrip())
        self.about = about


class Crew:
    """One process, and the workers in it."""

    def __init__(self, workers: range) -> None:
        self.workers = workers
        self.files: list[str] = []  # that its workers have imported
        self._process: asyncio.subprocess.Process
        self._line: asyncio.StreamWriter
        self._told = False

    def __str__(self) -> str:
        first, last = self.workers[0], self.workers[-1]
        which = f"worker {first}" if first == last else f"workers {first} to {last}"
        return f"{which} (pid {self._process.pid})"

    async def start(self, command: Sequence[str]) -> None:
        """Starts the process, and returns once its workers serve. Raises Failed."""
        ours, theirs = socket.socketpair()
        reader, self._line = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        with theirs:
            fd = theirs.fileno()
            place = f"--first {self.workers[0]} --count {len(self.workers)} --lifeline {fd}"
            self._process = await asyncio.create_subprocess_exec(
                *command, *place.split(), pass_fds=[fd], stdin=asyncio.subprocess.DEVNULL
            )
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
        code = await self._process.wait()
        self._line.close()
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"

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


class Post:
    """The place of a crew, and who fills it."""

    def __init__(self, workers: range) -> None:
        self.workers = workers
        self.crew: Crew | None = None  # None: it died, and the next one is not there yet
        self.changing = asyncio.Lock()
        self.hurry = asyncio.Event()  # the next one is to be started at once


class Supervisor:
    """Serves a bus with crews of workers.

    ``command`` starts a crew. What dies is started again, after a delay that doubles from 0.1 s to 30 s as
    long as it keeps dying early. SIGTERM and SIGINT have the workers finish the calls that they have, for at
    most ``patience`` seconds; a second one ends them at once. SIGHUP rolls: one crew after the other is
    replaced by a new one, which serves before the old one takes no more calls. With ``reload``, so does a
    change of the files that the workers have imported.
    """

    def __init__(
        self,
        bus: str,
        command: Sequence[str],
        crews: Iterable[range],
        *,
        patience: float,
        reload: bool,
    ) -> None:
        self._bus = bus
        self._command = command
        self._posts = [Post(workers) for workers in crews]
        self._patience = patience
        self._reload = reload
        self._crews: set[Crew] = set()  # all that were started and have not ended
        self._stop = asyncio.Event()
        self._roll = asyncio.Event()

    async def run(self, broker: _isthmus.Broker | None, ready: Callable[[], None]) -> None:
        """Serves until it is told to stop. Raises Failed when the first crews can't be started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number, broker)
        loop.add_signal_handler(signal.SIGHUP, self._roll.set)
        stop = asyncio.ensure_future(self._stop.wait())
        jobs = [asyncio.ensure_future(self._begin(post)) for post in self._posts]
        try:
            if not await _done_before(stop, jobs):
                return
            ready()
            log.info("serving '%s' with %s", self._bus, ", ".join(map(str, self._crews)))
            jobs = [asyncio.ensure_future(self._keep(post)) for post in self._posts]
            jobs.append(asyncio.ensure_future(self._roll_when_told()))
            if self._reload:
                jobs.append(asyncio.ensure_future(self._watch()))
            await _done_before(stop, jobs)
        finally:
            for job in (stop, *jobs):
                job.cancel()
            await asyncio.gather(stop, *jobs, return_exceptions=True)
            await asyncio.gather(*(crew.leave(self._patience) for crew in self._crews))

    def _told_to_stop(self, number: int, broker: _isthmus.Broker | None) -> None:
        if self._stop.is_set():
            for crew in self._crews:
                crew.kill()
            if broker is not None:
                broker.close()
            os._exit(128 + number)
        self._stop.set()

    async def _begin(self, post: Post) -> None:
        crew = Crew(post.workers)
        await crew.start(self._command)
        self._crews.add(crew)
        post.crew = crew

    async def _keep(self, post: Post) -> None:
        """Starts anew what has died."""
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
            if loop.time() - since > LONG_ENOUGH:
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


async def _done_before(stop: asyncio.Future[Any], jobs: Iterable[asyncio.Future[None]]) -> bool:
    """Whether all jobs were done before it was told to stop. Raises what one of them has raised."""
    left = set(jobs)
    while left and not stop.done():
        await asyncio.wait({stop, *left}, return_when=asyncio.FIRST_COMPLETED)
        for job in [job for job in left if job.done()]:
            job.result()
            left.discard(job)
    return not stop.done()
