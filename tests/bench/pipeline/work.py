"""The work of the stages of a pipeline, the same whatever carries its frames."""

import time

FRAME_BYTES = 1 << 20
DETECTORS = 3
DEPTH = 16  # how many frames may wait between two stages
LANES = 8
STEP = 4096


def paint(frame, number):
    """What the source does with a new frame: it writes a little of every page."""
    frame[::STEP] = number % 256


def look(frame):
    """What every later stage does: it reads as much."""
    return int(frame[::STEP].sum(dtype="int64"))


class Count:
    """Counts what comes to the sink: for so many seconds, once it has come for a quarter of that."""

    def __init__(self, seconds):
        self._seconds = seconds
        self._first = None
        self._begin = None
        self._frames = 0

    def add(self, number, total, frame):
        """Checks a frame; frames and seconds once it was the last."""
        expected = FRAME_BYTES // STEP * (number % 256)
        if look(frame) != expected or total < expected:
            raise ValueError(f"frame {number} came wrong: {look(frame)}, {total}")
        now = time.perf_counter()
        self._first = self._first or now
        if self._begin is None:
            if now - self._first >= self._seconds / 4:
                self._begin = now
            return None
        self._frames += 1
        took = now - self._begin
        return None if took < self._seconds else {"frames": self._frames, "seconds": took}
