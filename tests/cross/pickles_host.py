"""Sends a pickle to who did not ask for one."""

import runpy
from fractions import Fraction
from pathlib import Path

import isthmus

hostile = runpy.run_path(str(Path(__file__).parents[1] / "python/test_pickles.py"))


@isthmus.export
async def send_pickles(name, to):
    """What becomes of one that an honest peer would send, and of one that a hostile peer sends."""
    with isthmus.connect(name, pickle=True) as bus:

        async def outcome():
            try:
                await bus.call_async(to, Fraction(1, 2))
            except (isthmus.EncodeError, isthmus.JsError) as error:
                return str(error)

        await bus.call_async(to, 1)
        honest = await outcome()
        hostile["claim_that_everyone_asked"]()
        told = await outcome()
        await bus.call_async(to, 2)
        return [honest, told]
