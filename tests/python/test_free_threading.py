"""A free-threaded CPython: the GIL stays off."""

import sysconfig

import pytest

import isthmus


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the GIL")
def test_the_gil_stays_off(run, serve, name):
    done = run("""
        import sys
        import isthmus, numpy
        assert not sys._is_gil_enabled()
    """)
    assert done.returncode == 0, done.stderr
    serve("""
        import sys
        import isthmus, numpy

        @isthmus.export
        def has_gil(): return sys._is_gil_enabled()
    """).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("has_gil") is False
