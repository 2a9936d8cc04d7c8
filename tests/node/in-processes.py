"""Exports that run in other processes; the name of this file is that of no module."""

import os

import isthmus


class Unfit(Exception):
    pass


@isthmus.export
def host():
    return os.getpid()


@isthmus.export(executor="processes")
def pid():
    return os.getpid()


@isthmus.export(executor="processes")
def double(array):
    return array * 2


@isthmus.export(executor="processes")
def fail():
    raise Unfit("not this")


@isthmus.export(executor="processes")
def die():
    os._exit(3)
