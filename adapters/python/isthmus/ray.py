"""Ray as a ``concurrent.futures.Executor``: ``@isthmus.export(executor=RayExecutor())``.

Needs the package ray, as ``pip install '/path/to/isthmus/adapters/python[ray]'`` brings it.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import ray

__all__ = ["RayExecutor"]


class RayExecutor(Executor):
    """Runs what is submitted as tasks of the Ray cluster that this process is connected to, or else starts.

    ``options`` are those of ``ray.remote``: ``num_cpus``, ``num_gpus``, ``resources``, ``max_retries`` …
    Functions are pickled as Ray does it, so those of the served app need not be importable by the workers. A
    task whose worker dies is run again, up to ``max_retries`` times, three by default. Any thread may use it.
    """

    def __init__(self, **options: Any) -> None:
        self._run = ray.remote(**options)(_run) if options else ray.remote(_run)
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._is_shut = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begins a task. Cancelling its Future cancels the task, if that has not begun.

        Raises RuntimeError after ``shutdown``, and what Ray raises where no cluster can be reached.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            task = self._run.remote(function, args, kwargs)
            self._running.add(future)

        def pass_on_cancel(_: Future[Any]) -> None:
            self._running.discard(future)
            if future.cancelled():
                ray.cancel(task, force=False)

        future.add_done_callback(pass_on_cancel)
        task.future().add_done_callback(lambda done: _settle(future, done))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks. The cluster goes on."""
        with self._lock:
            self._is_shut = True
            running = list(self._running)
        for future in running if cancel_futures else ():
            future.cancel()
        if wait:
            concurrent.futures.wait(running)


def _run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _settle(future: Future[Any], done: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is None:
        future.set_result(done.result())
        return
    if isinstance(error, ray.exceptions.RayTaskError):  # tells the remote traceback
        cause = error.cause
        cause.__cause__ = error
        error = cause
    future.set_exception(error)
