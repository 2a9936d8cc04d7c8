"""The coroutines and async generators that a peer runs for others, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from . import _isthmus
from ._isthmus import END, ITEMS, RAISED, RESULT
from .errors import Error

__all__ = ["Tasks", "serving"]

serving: ContextVar[_isthmus.Bus | None] = ContextVar("serving", default=None)
"""The bus over which the call has come that a task performs."""

MOST_ITEMS = 256  # of a stream that are handed over together
HOLD_BACK = 100e-6  # seconds that an item may wait for the next ones
OWN_FILES = os.path.join(os.path.dirname(__file__), "")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        made: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()
    return made


def background(run: Callable[[Any], None], argument: object, name: str) -> threading.Thread:
    """A daemon, where there are any: sub-interpreters have none."""
    try:
        return threading.Thread(target=run, args=[argument], name=name, daemon=True)
    except RuntimeError:
        return threading.Thread(target=run, args=[argument], name=name)


class _Credit:
    """How many more items a stream may send."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._waiter: asyncio.Future[None] | None = None

    def grant(self, count: int) -> None:
        self.left += count
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        while self.left <= 0:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def _stream_of(result: Any) -> AsyncIterable[Any]:
    if hasattr(type(result), "__aiter__"):
        source: AsyncIterable[Any] = result
        return source
    try:
        return _each(iter(result))
    except TypeError:
        raise TypeError(
            f"the result can't be streamed: it is no iterable but a {type(result).__name__}"
        ) from None


class _Ended:
    """What a task returns whose code has raised SystemExit or KeyboardInterrupt, which would end the loop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _guarded(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        return _Ended(error)


def _without_own_frames(error: BaseException) -> BaseException:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OWN_FILES):
        trace = trace.tb_next
    return error.with_traceback(trace)


async def _cancel_rest() -> None:
    """What coroutines have begun and left behind."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class Tasks:
    """Runs what a native Bus defers: on the loop it is given, else on its own, begun by the first call."""

    def __init__(
        self, native: _isthmus.Bus, name: str, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._native = native
        self._name = name
        self._lock = threading.Lock()
        self._given = loop
        self._own: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        # Used on the loop alone.
        self._running: dict[Hashable, asyncio.Future[Any]] = {}
        self._cancelled: set[Hashable] = set()
        self._credits: dict[Hashable, _Credit] = {}
        self._outcomes: list[tuple[Hashable, int, Any]] = []
        self._handing_over = False
        native.runner = self._run
        native.canceller = self._cancel
        native.on_credit = self._grant

    # --- the dispatcher's thread -------------------------------------------------------------------------

    def _run(self, batch: Sequence[_isthmus.Deferred]) -> None:
        if not self._post(self._begin_all, batch):
            gone = Error(f"the event loop that '{self._name}' runs coroutines on has ended")
            self._native.complete([(token, RAISED, gone) for token, *_ in batch])

    def _cancel(self, tokens: Sequence[Hashable]) -> None:
        self._post(self._cancel_all, tokens)

    def _grant(self, grants: Sequence[tuple[Hashable, int]]) -> None:
        self._post(self._grant_all, grants)

    def _post(self, function: Callable[[Any], None], argument: object) -> bool:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # it was closed
            return False
        return loop is not None

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        if self._given is not None and not self._given.is_closed():
            return self._given
        with self._lock:
            if self._own is None and not self._ended:
                self._own = _new_loop()
                name = f"isthmus-{self._name}-asyncio"
                self._thread = background(self._serve, self._own, name)
                self._thread.start()
            return self._own

    # --- any thread --------------------------------------------------------------------------------------

    def end(self) -> None:
        """Cancels what runs, and ends the own loop. Does not wait."""
        with self._lock:
            self._ended = True
            own = self._own
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            if own is not None:
                own.call_soon_threadsafe(own.stop)
            elif self._given is not None:
                self._given.call_soon_threadsafe(lambda: self._cancel_all(list(self._running)))
        self._native.runner = self._native.canceller = self._native.on_credit = None

    def join(self) -> None:
        """Waits until the own loop has ended, unless it is that which calls."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # --- the loop's thread -------------------------------------------------------------------------------

    async def cancel_all(self) -> None:
        """Cancels what runs, and returns once it has ended."""
        self._cancel_all(list(self._running))
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self.cancel_all())
            loop.run_until_complete(_cancel_rest())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _begin_all(self, batch: Sequence[_isthmus.Deferred]) -> None:
        loop = asyncio.get_running_loop()
        serving.set(self._native)
        for token, function, args, kwargs, call in batch:
            # The task copies the context, so that each call has its own.
            restore = _isthmus.calling.set(call)
            try:
                result = work = function if args is None else function(*args, **(kwargs or {}))
                if call.credit:
                    credit = self._credits[token] = _Credit(call.credit)
                    work = self._send_items(token, result, credit)
                elif not hasattr(type(result), "__await__"):
                    self._tell((token, RESULT, result))
                    continue
                task = work if asyncio.isfuture(work) else loop.create_task(_guarded(work))
            except BaseException as error:
                self._tell((token, RAISED, _without_own_frames(error)))
                continue
            finally:
                _isthmus.calling.reset(restore)
            self._running[token] = task
            task.add_done_callback(partial(self._finish, token, (work, result)))

    def _cancel_all(self, tokens: Iterable[Hashable]) -> None:
        """Each once, so that what they do on their way out is not cancelled as well."""
        for token in tokens:
            if token in self._running and token not in self._cancelled:
                self._cancelled.add(token)
                self._running[token].cancel()

    def _grant_all(self, grants: Sequence[tuple[Hashable, int]]) -> None:
        for token, count in grants:
            if (credit := self._credits.get(token)) is not None:
                credit.grant(count)

    async def _send_items(self, token: Hashable, result: Any, credit: _Credit) -> None:
        if hasattr(type(result), "__await__"):
            result = await result
        source = _stream_of(result)
        batch: list[tuple[Hashable, int, Any]] | None = None
        items: list[Any] = []
        since = 0.0
        try:
            await credit.wait()
            async for item in source:
                if batch is not self._outcomes:
                    batch, items, since = self._outcomes, [item], time.perf_counter()
                    self._tell((token, ITEMS, items))
                else:
                    items.append(item)
                    if len(items) == MOST_ITEMS or time.perf_counter() - since > HOLD_BACK:
                        self._hand_over()
                credit.left -= 1
                if credit.left <= 0:
                    self._hand_over()
                    await credit.wait()
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _finish(self, token: Hashable, awaited: Iterable[Any], task: asyncio.Future[Any]) -> None:
        if task.cancelled():  # perhaps before its first step: nothing has awaited them then
            for coroutine in filter(asyncio.iscoroutine, awaited):
                coroutine.close()
        del self._running[token]
        self._cancelled.discard(token)
        is_stream = self._credits.pop(token, None) is not None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        result = task.result() if error is None else None
        if isinstance(result, _Ended):
            error = result.error
        if error is not None:
            self._tell((token, RAISED, _without_own_frames(error)))
        else:
            self._tell((token, END, None) if is_stream else (token, RESULT, result))

    def _tell(self, outcome: tuple[Hashable, int, Any]) -> None:
        self._outcomes.append(outcome)
        if not self._handing_over:
            self._handing_over = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Once per turn of the loop, for all that was told in it."""
        self._handing_over = False
        outcomes, self._outcomes = self._outcomes, []
        if outcomes:
            self._native.complete(outcomes)
