"""Works on photographs that lie in bus memory, and writes the results into bus memory."""

from importlib.metadata import version
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import color, exposure, restoration, segmentation, util

import isthmus

# All lie in scikit-image's wheel. The credits are what its documentation says of each.
PHOTOGRAPHS = [
    ("astronaut", "astronaut.png", "NASA, public domain"),
    ("cat", "chelsea.png", "Stefan van der Walt, CC0"),
    ("coffee", "coffee.png", "Rachel Michetti, CC0"),
    ("rocket", "rocket.jpg", "SpaceX, public domain"),
    ("camera", "camera.png", "Lav Varshney, CC0"),
    ("coins", "coins.png", "Brooklyn Museum, no known copyright restrictions"),
    ("gravel", "gravel.png", "CC0 Textures, CC0"),
    ("retina", "retina.jpg", "Wikimedia Commons, CC0"),
    ("tissue", "ihc.png", "CMMI, no known copyright restrictions"),
    ("galaxies", "hubble_deep_field.jpg", "NASA, public domain"),
]


def into_bus_memory(image):
    """Turns fractions into bytes, straight into an array in bus memory."""
    result = isthmus.empty(image.shape, "uint8")
    return np.multiply(image, 255, out=result, casting="unsafe")


@isthmus.export
def photographs():
    folder = files("skimage.data")
    return [{"name": name, "path": str(folder / file), "credit": of} for name, file, of in PHOTOGRAPHS]


@isthmus.export
def library():
    return f"scikit-image {version('scikit-image')}"


@isthmus.export
def contrast(photo):
    return into_bus_memory(exposure.equalize_adapthist(photo, clip_limit=0.03))


@isthmus.export
def denoised(photo):
    smooth = restoration.denoise_tv_chambolle(util.img_as_float32(photo), weight=0.2, channel_axis=-1)
    return into_bus_memory(np.clip(smooth, 0, 1, out=smooth))


@isthmus.export
def segments(photo):
    labels = segmentation.slic(photo, n_segments=250, compactness=12, max_num_iter=5, start_label=1)
    flat = color.label2rgb(labels, photo, kind="avg", bg_label=0)
    return into_bus_memory(segmentation.mark_boundaries(flat, labels, color=(1, 1, 1), mode="inner"))


@isthmus.export
def edges(photo):
    slope = ndimage.gaussian_gradient_magnitude(color.rgb2gray(photo), sigma=1)
    slope /= np.quantile(slope, 0.99)
    return into_bus_memory(1 - np.minimum(slope, 1, out=slope))


@isthmus.export
def spread(photo, left, top, side):
    """How far apart the darkest and the brightest green of one small tile are."""
    tile = photo[top : top + side, left : left + side, 1]
    return int(tile.max()) - int(tile.min())


@isthmus.export
def label(text, size, ink):
    """A line of text on white, as grey levels."""
    font = ImageFont.load_default(size)
    width, height = round(font.getlength(text)) + 2, size + size // 2
    canvas = Image.new("L", (width, height), 255)
    ImageDraw.Draw(canvas).text((1, height // 2), text, ink, font, anchor="lm")
    result = isthmus.empty((height, width), "uint8")
    result[...] = canvas
    return result
