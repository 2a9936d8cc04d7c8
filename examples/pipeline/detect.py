"""Looks for faces, edges and the commonest colour in each frame, where it lies."""

from importlib.resources import files

import numpy as np
from skimage import color, feature

import isthmus

cascade = feature.Cascade(str(files("skimage.data") / "lbpcascade_frontalface_opencv.xml"))


def faces_in(grey):
    """The centre of each, as fractions of height and width."""
    found = cascade.detect_multi_scale(
        grey,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(24, 24),
        max_size=grey.shape,
        min_neighbor_number=4,
    )
    height, width = grey.shape
    return [[(at["r"] + at["height"] / 2) / height, (at["c"] + at["width"] / 2) / width] for at in found]


def commonest_colour(frame):
    """Of 64: four levels of each channel."""
    levels = (frame >> 6).reshape(-1, 3).astype(int)
    commonest = int(np.bincount(levels @ (16, 4, 1), minlength=64).argmax())
    return "#" + "".join(f"{level * 85:02x}" for level in (commonest >> 4, commonest >> 2 & 3, commonest & 3))


def detect(message):
    value = message.value
    frame = value.pop("frame")
    grey = color.rgb2gray(frame)
    found.put(
        {
            **value,
            "faces": faces_in(grey),
            "edges": float(feature.canny(grey, sigma=2).mean()),
            "colour": commonest_colour(frame),
        }
    )
    message.ack()


bus = isthmus.connect()
found = bus.queue("found", deliveries=100)
with bus.queue("frames", depth=12) as frames:
    while True:
        detect(frames.get())
