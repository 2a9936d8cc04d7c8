"""Starts and stops hosts in one process. Lines in: start BUS, stop BUS; lines out: up BUS, down BUS."""

import asyncio
import sys

import isthmus


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def next(x):
    return x + 1


async def host(bus, stop):
    async with isthmus.Host(bus):
        print("up", bus, flush=True)
        await stop.wait()
    print("down", bus, flush=True)


async def main():
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    hosts = {}
    while line := (await commands.readline()).decode():
        verb, bus = line.split()
        if verb == "start":
            stop = asyncio.Event()
            hosts[bus] = (asyncio.create_task(host(bus, stop)), stop)
        else:
            task, stop = hosts.pop(bus)
            stop.set()
            task.add_done_callback(lambda done: done.result())


asyncio.run(main())
