"""A pipeline over the queues of multiprocessing, all of it in Python: python processes.py MS."""

import json
import multiprocessing
import sys

import numpy as np
import work


def source(frames):
    number = 0
    while True:
        frame = np.empty(work.FRAME_BYTES, "uint8")
        work.paint(frame, number)
        frames.put((number, frame))
        number += 1


def detect(frames, found):
    while True:
        number, frame = frames.get()
        found.put((number, work.look(frame), frame))


def aggregate(found, results):
    total = 0
    while True:
        number, _, frame = found.get()
        total += work.look(frame)
        results.put((number, total, frame))


def sink(results, ms):
    count = work.Count(ms / 1000)
    while True:
        if done := count.add(*results.get()):
            return done


if __name__ == "__main__":
    frames, found, results = (multiprocessing.Queue(work.DEPTH) for _ in range(3))
    for stage in (
        (source, frames),
        *work.DETECTORS * [(detect, frames, found)],
        (aggregate, found, results),
    ):
        multiprocessing.Process(target=stage[0], args=stage[1:], daemon=True).start()
    print(json.dumps(sink(results, float(sys.argv[1]))), flush=True)
