"""A Python host of the soak: `python host.py BUS NAME`. Offers what isolate.mjs offers, under its name.

Each array carries, in its first eight bytes, the CRC-32 of the others and how many they are.
"""

import gc
import os
import random
import struct
import sys
import zlib

import numpy as np

import isthmus
from isthmus.caller import Caller
from isthmus.exports import registry
from isthmus.peer import Peer

HEADER = struct.Struct("<II")
NOISE = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)

bus_name, name = sys.argv[1:]
peer = Peer(bus_name, registry)


class Bus(Caller):
    def _started(self):
        return peer


bus = Bus()
kept = {}
life = os.urandom(8).hex()


def export(function):
    return isthmus.export(name=f"{name}.{function.__name__}")(function)


def flat(array):
    return array.reshape(-1).view(np.uint8)


def verify(array):
    data = flat(array)
    checksum, count = HEADER.unpack_from(data)
    if count != data.size - 8 or zlib.crc32(data[8:]) != checksum:
        raise AssertionError(
            f"{name} found wrong bytes in {array.dtype}{list(array.shape)}: {bytes(data[:32]).hex()}"
        )


def stamp(array):
    data = flat(array)
    for at in range(8, data.size, NOISE.size):
        data[at : at + NOISE.size] = NOISE[: data.size - at]
    data[8] = random.getrandbits(8)
    HEADER.pack_into(data, 0, zlib.crc32(data[8:]), data.size - 8)
    return array


@export
def echo(array):
    verify(array)
    return array


@export
def keep(key, array, as_view):
    verify(array)
    kept[key] = array[:] if as_view else array
    return life


@export
def check(key, whose):
    if whose == life:  # what a host that was killed has kept is gone
        verify(kept.pop(key))


def empty(shape, dtype):
    count = np.dtype(dtype).itemsize * int(np.prod(shape))
    return isthmus.empty(count, "uint8").view(dtype).reshape(shape)


@export
def make(shape, dtype, by_numpy):
    return stamp(np.empty(shape, dtype) if by_numpy else empty(shape, dtype))


@export
def rewrite(array):
    verify(array)
    return stamp(array)


@export
async def relay(array, others):
    verify(array)
    if not others:
        return array
    array = await bus.call_async(f"{others[0]}.relay", array, others[1:])
    verify(array)
    return array


@export
def some(count, shape, dtype):
    for _ in range(count):
        yield stamp(empty(shape, dtype))


@export
def clear():
    kept.clear()
    gc.collect()


peer.start()
print('{"ready": true}', flush=True)
sys.stdin.read()
peer.stop()
