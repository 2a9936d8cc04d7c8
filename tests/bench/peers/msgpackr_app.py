"""Serves the socket named by the argument until its stdin closes."""

import selectors
import socket
import struct
import sys

import msgpack
import numpy as np


def add(a, b):
    return a + b


def total_plus_one(data):
    x = np.frombuffer(data)
    return x.sum().item(), (x + 1).data


exports = {"add": add, "total_plus_one": total_plus_one}
packer = msgpack.Packer()


def receive(connection, size):
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise ConnectionResetError("the caller is gone")
    return data


def answer(message):
    number, name, args = message
    try:
        return number, None, exports[name](*args)
    except Exception as error:
        return number, repr(error), None


def serve(connection):
    (size,) = struct.unpack("<I", receive(connection, 4))
    body = packer.pack([answer(m) for m in msgpack.unpackb(receive(connection, size))])
    header = struct.pack("<I", len(body))
    if len(body) < 65536:
        connection.sendall(header + body)
    else:
        connection.sendall(header)
        connection.sendall(body)


def main(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                try:
                    serve(key.fileobj)
                except OSError:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


main(sys.argv[1])
