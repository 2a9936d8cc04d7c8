"""Finds in each frame what its places add up to."""

import isthmus

PLACES = (0, 4096, 65_537, 524_288, (1 << 20) - 1)
DELIVERIES = 1000

bus = isthmus.connect()
frames = bus.queue("frames", depth=16, deliveries=DELIVERIES, prefetch=2)
found = bus.queue("found", depth=32, deliveries=DELIVERIES)


def detect(message):
    value = message.value
    total = sum(int(value["frame"][at]) * (i + 1) for i, at in enumerate(PLACES))
    copied = value["copied"] + bus.stats()["self"]["bytes_copied"]
    found.put({**value, "sum": total, "copied": copied})
    message.ack()


while True:
    detect(frames.get())
