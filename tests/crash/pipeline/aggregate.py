"""Passes frames on in groups. What it has not passed on it has not acknowledged."""

import isthmus

DELIVERIES = 1000
GROUP = 8

bus = isthmus.connect()
found = bus.queue("found", depth=32, deliveries=DELIVERIES, prefetch=GROUP)
groups = bus.queue("groups", depth=4, deliveries=DELIVERIES)
held = []


def pass_on():
    copied = bus.stats()["self"]["bytes_copied"]
    groups.put([{**message.value, "copied": message.value["copied"] + copied} for message in held])
    while held:
        held.pop().ack()


while True:
    try:
        held.append(found.get(timeout=0.2 if held else None))
    except isthmus.TimeoutError:
        pass_on()
    if len(held) == GROUP:
        pass_on()
