"""Values without a form of their own, between Python peers that both asked for it: pickle 5.

Reading a pickle runs code that its sender chose. The encoder and the decoder call this module only where the
peer was made with ``pickle=True``.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

__all__ = ["dump", "load"]


def dump(value: Any) -> list[bytes | memoryview] | None:
    """The stream, then the buffers that it leaves out, which travel like arrays.

    None for what can't be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return [stream, *(buffer.raw() for buffer in buffers)]
    except Exception:
        return None


def load(parts: Sequence[Any]) -> Any:
    """The value, over the memory of the buffers. Raises what unpickling raises."""
    stream, *buffers = parts
    return pickle.loads(stream, buffers=buffers)
