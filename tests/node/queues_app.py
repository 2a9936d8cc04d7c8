"""What the other side of the queues does."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import isthmus


@isthmus.export(executor="threads")
def put(bus: str, name: str, values: list) -> None:
    with isthmus.connect(bus) as own:
        q = own.queue(name)
        for value in values:
            q.put(value)


@isthmus.export(executor="threads")
def take(bus: str, name: str, count: int) -> list:
    taken = []
    with isthmus.connect(bus) as own, own.queue(name, prefetch=4) as q:
        while len(taken) < count:
            with q.get() as message:
                taken.append([message.value, message.deliveries])
    return taken


@isthmus.export(executor="threads")
def take_what_can_be_read(bus: str, name: str) -> list:
    told = []

    def read() -> bool:
        try:
            with q.get() as message:
                told.append(message.value)
        except ValueError as error:
            told.append(str(error))
            return False
        return True

    with isthmus.connect(bus) as own, own.queue(name, prefetch=4) as q:
        while not read():
            pass
    return told


@isthmus.export(executor="threads")
def put_between_others_what_javascript_cannot_read(bus: str, name: str) -> None:
    records = np.zeros(2, [("x", "<f16")])
    with isthmus.connect(bus) as own:
        for value in ("one", [records, "more of it"], "two", "three"):
            own.queue(name).put(value)
        own.topic(name).publish(["news", records])
        own.topic(name).publish(["later", 2])


@isthmus.export(executor="threads")
def take_all_that_can_be_read(bus: str, name: str, count: int) -> list:
    """Holds what it gets to the end; then how often each was given out, and how many could not be read."""
    taken: list[isthmus.Message] = []
    failed = 0

    def read() -> bool:
        try:
            taken.append(q.get())
        except ValueError:
            return False
        return True

    with isthmus.connect(bus) as own, own.queue(name, prefetch=8) as q:
        while len(taken) < count:
            failed += not read()
        for message in taken:
            message.ack()
        return [[[message.value, message.deliveries] for message in taken], failed]


@isthmus.export
def ask(question: Callable[[], Any]) -> Any:
    return question()


@isthmus.export
def add_frames(bus: str, source: str, target: str) -> None:
    """A stage of its own: passes on what it gets, each with one more to its count."""

    def work() -> None:
        with isthmus.connect(bus) as own:
            into, out = own.queue(source), own.queue(target)
            for message in into:
                if message.value is None:
                    message.ack()
                    break
                with message:
                    out.put({**message.value, "passed": message.value["passed"] + 1})
            copied.append(own.stats()["self"]["bytes_copied"])
            own.queue("stages").put(None)

    threading.Thread(target=work).start()


copied: list[int] = []


@isthmus.export
def bytes_copied() -> list[int]:
    return copied
