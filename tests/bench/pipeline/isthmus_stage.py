"""A Python stage of a pipeline over queues of a bus: python isthmus_stage.py detect|aggregate."""

import asyncio
import sys

import work

import isthmus

bus = isthmus.connect()
total = 0


def detect(value):
    return {"sum": work.look(value["frame"])}


def aggregate(value):
    global total
    total += work.look(value["frame"])
    return {"total": total}


async def main(source, stage, target):
    results = bus.queue(target, depth=work.DEPTH)
    messages = bus.queue(source, depth=work.DEPTH, prefetch=work.DEPTH)

    async def lane():
        async for message in messages:
            value = {**message.value, **stage(message.value)}
            if "copied" in value:
                value["copied"] += bus.stats()["self"]["bytes_copied"]
            await results.put_async(value)
            message.ack()

    await asyncio.gather(*(lane() for _ in range(work.LANES)))


stages = {"detect": ("frames", detect, "found"), "aggregate": ("found", aggregate, "results")}
asyncio.run(main(*stages[sys.argv[1]]))
