"""Topics, as those see them who publish and subscribe. ``keeper`` is the other side."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from .access import Access, Lane, Telling
from .closing import Closing
from .intake import Closed, Intake, readable
from .keeper import PUBLISH, SUBSCRIBE
from .rules import DEPTH, WAIT, check_subscription

__all__ = ["Subscription", "Topic"]

MOST_ON_THE_WAY = 64  # messages to a subscriber

# How many were dropped so far, value. The first item is None, which says that it has begun.
_News = tuple[int, Any]


class _Feed(Intake[_News]):
    """Lets the keeper send as much as was taken."""

    def __init__(self, access: Access, name: str, on_full: str, depth: int) -> None:
        super().__init__(access, f"the topic '{name}'")
        self.dropped = 0
        on_the_way = min(depth, MOST_ON_THE_WAY)
        self._enough = max(on_the_way // 2, 1)
        self._fresh = -1  # the first item is none
        self.begin(SUBSCRIBE, (name, on_full, depth), on_the_way + 1)

    def taken(self, item: _News | None) -> None:
        if item is not None:
            self.dropped = item[0]
        self._fresh += 1
        if self._fresh == self._enough and self.failure is None:
            self.native.credit(self.handle, self._fresh)
            self._fresh = 0

    def take_back(self, item: _News) -> None:
        self._fresh -= 1
        super().take_back(item)

    def close(self) -> None:
        with self.lock:
            if self.failure is None:
                self.native.cancel(self.handle)
            self.items.clear()
            self.fail(Closed(f"{self.what} was closed here"))


class Subscription(Closing):
    """The messages of a topic from ``Topic.subscribe`` on, for ``for`` or ``async for``, until ``close``.

    Leaving ``with``, or dropping it, closes it. Any thread and any event loop may take messages; each goes to
    one of them.
    """

    def __init__(self, access: Access, name: str, on_full: str, depth: int) -> None:
        check_subscription(on_full, depth)
        self.name = name
        self._getting = Telling(access, f"get from the topic '{name}'")
        with Telling(access, f"subscribe to the topic '{name}'"):
            access.ensure()
            self._feed = _Feed(access, name, on_full, depth)
            self._feed.wait(None)

    @property
    def dropped(self) -> int:
        """How many messages it has missed before the one that it gave last."""
        return self._feed.dropped

    def get(self, *, timeout: float | None = None) -> Any:
        """The next message; with a timeout of 0 one that is there by now.

        Raises isthmus.TimeoutError, PeerLost when the bus ends, Error when closed.
        """
        with self._getting:
            return readable(self._feed.wait(timeout)[1])

    async def get_async(self, *, timeout: float | None = None) -> Any:
        """``get`` for the running event loop."""
        with self._getting:
            return readable((await self._feed.wait_async(timeout))[1])

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Any:
        try:
            return self.get()
        except Closed:
            raise StopIteration from None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get_async()
        except Closed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Takes no more. Nobody waits for it then."""
        self._feed.close()

    def __del__(self) -> None:
        if hasattr(self, "_feed"):
            self.close()

    def __repr__(self) -> str:
        return f"<isthmus.Subscription to '{self.name}'>"


class Topic:
    """A topic of a bus, made by ``Bus.topic`` or ``Host.topic``. Any thread and any event loop may use it."""

    def __init__(self, access: Access, name: str) -> None:
        self.name = name
        self._access = access
        self._lane: Lane = access.lane(PUBLISH, name)
        self._what = f"the topic '{name}'"

    def publish(self, value: Any, *, timeout: float | None = None) -> None:
        """Sends a value to all who have subscribed, and returns when each has it, or room for it.

        Where nobody has subscribed nothing is kept. Raises what ``Queue.put`` raises.
        """
        self._lane.send((value, self.name), timeout, self._what)

    def publish_async(self, value: Any, *, timeout: float | None = None) -> Awaitable[None]:
        """``publish``, to be awaited in the running event loop."""
        return self._lane.begin((value, self.name), timeout, self._what)

    def subscribe(self, *, on_full: str = WAIT, depth: int = DEPTH) -> Subscription:
        """Messages that are published from now on. ``depth`` of them are kept, besides those on the way, of
        which there are as many, and at most 64. When there are more, publishers ``"wait"``, or the oldest are
        dropped and counted (``"drop-oldest"``). Raises ValueError for what is neither, or no depth.
        """
        return Subscription(self._access, self.name, on_full, depth)

    def __repr__(self) -> str:
        return f"<isthmus.Topic '{self.name}'>"
