import numpy as np


def add(a, b):
    return a + b


def total_plus_one(data):
    x = np.frombuffer(data)
    return x.sum().item(), x + 1
