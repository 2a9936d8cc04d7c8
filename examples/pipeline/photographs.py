"""Which photographs there are. All lie in scikit-image's wheel; examples/photos has the credits."""

from importlib.resources import files

import isthmus

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
    "coins": "coins.png",
    "gravel": "gravel.png",
    "retina": "retina.jpg",
    "tissue": "ihc.png",
    "galaxies": "hubble_deep_field.jpg",
}


@isthmus.export
def photographs():
    folder = files("skimage.data")
    return [{"name": name, "path": str(folder / file)} for name, file in PHOTOGRAPHS.items()]
