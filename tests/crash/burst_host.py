"""Takes and gives much at once."""

import os

import isthmus


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def length(text):
    return len(text)


@isthmus.export
def text(count):
    return "x" * count
