"""A Python stage of a pipeline over ZeroMQ: python zeromq.py detect|aggregate PLACE."""

import json
import math
import sys

import numpy as np
import work
import zmq

role, place = sys.argv[1:]
context = zmq.Context()


def end(kind, mark, how, queue, most):
    socket = context.socket(kind)
    socket.setsockopt(mark, most)
    getattr(socket, how)(f"ipc://{place}/{queue}")
    return socket


# Each detector has pipes of its own, of which both ends hold frames.
FEW = math.ceil(work.DEPTH / work.DETECTORS / 2)
if role == "detect":
    come = end(zmq.PULL, zmq.RCVHWM, "connect", "frames", FEW)
    go = end(zmq.PUSH, zmq.SNDHWM, "connect", "found", FEW)
    while True:
        number, frame = come.recv_multipart(copy=False)
        about = {"number": int(number.bytes), "sum": work.look(np.frombuffer(frame.buffer, "uint8"))}
        go.send_multipart([json.dumps(about).encode(), frame], copy=False)
else:
    come = end(zmq.PULL, zmq.RCVHWM, "bind", "found", FEW)
    go = end(zmq.PUSH, zmq.SNDHWM, "bind", "results", work.DEPTH // 2)
    total = 0
    while True:
        about, frame = come.recv_multipart(copy=False)
        about = json.loads(about.bytes)
        total += work.look(np.frombuffer(frame.buffer, "uint8"))
        go.send_multipart([json.dumps({**about, "total": total}).encode(), frame], copy=False)
