"""Answers JSON lines on stdin with JSON lines on stdout, all that arrived at once in one write."""

import base64
import json
import os

import numpy as np


def add(a, b):
    return a + b


def total_plus_one(text):
    x = np.frombuffer(base64.b64decode(text))
    return x.sum().item(), base64.b64encode((x + 1).data).decode()


exports = {"add": add, "total_plus_one": total_plus_one}


def answer(line):
    number, name, args = json.loads(line)
    try:
        return json.dumps((number, None, exports[name](*args)))
    except Exception as error:
        return json.dumps((number, repr(error), None))


def write(data):
    data = memoryview(data)
    while data:
        data = data[os.write(1, data) :]


parts = []
while chunk := os.read(0, 1 << 20):
    whole, newline, rest = chunk.rpartition(b"\n")
    if not newline:
        parts.append(chunk)
        continue
    parts.append(whole)
    lines = b"".join(parts).split(b"\n")
    parts = [rest]
    write("".join(f"{answer(line)}\n" for line in lines).encode())
