"""Makes one result of what was found in a photograph's frames.

Until all of them are there, and the result is put, it holds what it has without acknowledging it: when it is
killed, the next one gets it all again.
"""

import os
from pathlib import Path
from statistics import fmean

import isthmus

NEAR = 0.05  # of height or width: two sizes show the same face

out = Path(os.environ["OUT"])
held = {}  # by name of the photograph and number of the frame: a message


def is_done(name):
    return (out / f"{name}.json").exists()


def is_near(one, other):
    return all(abs(a - b) < NEAR for a, b in zip(one, other, strict=True))


def aggregate(parts):
    """A face is one if it is found in two sizes or more."""
    faces = []
    for part in parts:
        others = [face for other in parts if other is not part for face in other["faces"]]
        for face in part["faces"]:
            if any(is_near(face, other) for other in others) and not any(
                is_near(face, known) for known in faces
            ):
                faces.append(face)
    return {
        "name": parts[0]["name"],
        "faces": len(faces),
        "edges": round(100 * fmean(part["edges"] for part in parts)),
        "colour": parts[0]["colour"],
    }


def take(message):
    name, part = message.value["name"], message.value["part"]
    parts = held.setdefault(name, {})
    if (
        part in parts
    ):  # it came twice, as its detector was killed before it could acknowledge what it had read
        message.ack()
        return
    parts[part] = message
    if len(parts) == message.value["parts"]:
        results.put(aggregate([parts[i].value for i in sorted(parts)]))
        give_back(name)


def give_back(name):
    for message in held.pop(name).values():
        message.ack()


def wait():
    """The next message; None when there is none for a while."""
    try:
        return found.get(timeout=1)
    except isthmus.TimeoutError:
        return None


bus = isthmus.connect()
results = bus.queue("results", deliveries=100)
with bus.queue("found", prefetch=64) as found:
    while True:
        message = wait()
        if message is not None:
            take(message)
            continue
        for name in [name for name in held if is_done(name)]:  # what came again of a photograph that is done
            give_back(name)
