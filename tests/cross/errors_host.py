"""Fails in every way."""

import time

import isthmus

count = 0


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Halt(BaseException):
    pass


class Several(Exception):
    def __init__(self):
        super().__init__("several", [ValueError("a"), KeyError("b")])


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def anything(*args, **named):
    global count
    count += 1
    return args[0]


@isthmus.export
def calls():
    return count


@isthmus.export
def sleep(seconds):
    time.sleep(seconds)


@isthmus.export
def fail(n):
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError(f"seven: {n}", n) from error


def forever():
    forever()


def circle():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


@isthmus.export
def raise_it(name):
    if name == "RecursionError":
        forever()
    raise {
        "str of it fails": Unprintable(),
        "arguments that cannot travel": ValueError("x", object(), lambda: 1),
        "a BaseException": Halt("halt"),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "SystemExit": SystemExit(3),
        "StopIteration": StopIteration(3),
        "MemoryError": MemoryError(),
        "an ExceptionGroup or its like": Several(),
        "a cycle of causes": circle(),
        "a lone surrogate in the message": ValueError("\ud800"),
        "a megabyte of message": ValueError("x" * 1_000_000),
    }[name]


@isthmus.export
def unreturnable(name):
    if name.startswith("cycle"):
        round_trip = []
        round_trip.append(round_trip)
        return {"rows": [1, 2, {"handle": round_trip}]} if "deep" in name else round_trip
    deep = []
    for _ in range(200):
        deep = [deep]
    return deep
