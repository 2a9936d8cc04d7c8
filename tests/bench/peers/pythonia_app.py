import base64

import numpy as np


def add(a, b):
    return a + b


def total_plus_one(text):
    x = np.frombuffer(base64.b64decode(text))
    return f"{x.sum()} {base64.b64encode((x + 1).data).decode()}"
