"""Workers that are threads or sub-interpreters, and Pythons that can't have them."""

import os
import signal
import sys
import sysconfig

import pytest

import isthmus

if sysconfig.get_config_var("Py_GIL_DISABLED"):

    def test_threads_that_run_at_the_same_time_are_workers_too(serve, app, connect, gate):
        served = serve(app, "--workers", "2", "--worker-kind", "thread").ready()
        caller, gates = connect(), [gate("one"), gate("two")]
        calls = [caller.submit("hold", str(each.path)) for each in gates]
        assert {each.holder() for each in gates} == {gates[0].holder()}
        for each in gates:
            each.open()
        assert {call.result() for call in calls} == {gates[0].holder()}
        assert served.end() == 0

else:

    def test_threads_are_refused_by_a_python_with_a_gil(serve, app):
        served = serve(app, "--workers", "2", "--worker-kind", "thread")
        assert "in a free-threaded build of Python alone" in served.answer()["error"]["message"]
        assert served.wait() == 2


if sys.version_info < (3, 12):

    def test_interpreters_are_refused_by_a_python_that_is_too_old(serve, app):
        served = serve(app, "--workers", "2", "--worker-kind", "interpreter")
        assert "need Python 3.12 or later" in served.answer()["error"]["message"]
        assert served.wait() == 2

else:

    def test_interpreters_are_lost_together_and_started_again(
        serve, app, connect, gate, successor_of, answers_of, workers_of
    ):
        served = serve(app, "--workers", "2", "--worker-kind", "interpreter").ready()
        caller, gates = connect(), [gate("one"), gate("two")]
        calls = [caller.submit("hold", str(each.path)) for each in gates]
        [victim] = {each.holder() for each in gates}
        os.kill(victim, signal.SIGKILL)
        for call in calls:
            with pytest.raises(isthmus.PeerLost):
                call.result()
        successor = successor_of(caller, victim)
        answers_of(caller, "who", 2)
        assert workers_of(caller) == {successor}
        assert served.end() == 0
        assert f"workers 0 to 1 (pid {victim}) was killed by SIGKILL" in served.stderr()

    def test_what_an_interpreter_puts_first_from_its_event_loop_arrives(serve, connect, name):
        app = f"""
            import isthmus

            @isthmus.export
            async def put(value):
                with isthmus.connect({name!r}) as bus:
                    await bus.queue("q").put_async(value)
        """
        served = serve(app, "--workers", "2", "--worker-kind", "interpreter").ready()
        caller = connect()
        caller.call("put", 1)
        with caller.queue("q").get() as message:
            assert message.value == 1
        assert served.end() == 0

    SAYS_AT_ITS_END = """
        import atexit
        import isthmus

        atexit.register(print, "at the end")

        @isthmus.export
        def say():
            print("in a call")
    """

    @pytest.mark.parametrize("export", ["who", "later"])
    def test_an_interpreter_is_a_worker_with_a_copy_of_the_app_of_its_own(
        serve, app, connect, answers_of, export
    ):
        served = serve(app, "--workers", "2", "--worker-kind", "interpreter").ready()
        answers_of(connect(), export, 2)
        assert served.end() == 0

    def test_interpreters_roll_and_drain_like_processes_without_a_word(
        serve, app, connect, until, workers_of
    ):
        served = serve(app, "--workers", "2", "--worker-kind", "interpreter").ready()
        caller = connect()
        before = workers_of(caller)
        served.process.send_signal(signal.SIGHUP)

        def others():
            for call in [caller.submit("later", 0.001 * i) for i in range(40)]:
                call.result()
            return not before & workers_of(caller)

        until(others)
        assert served.end() == 0
        assert served.stderr() == ""

    def test_an_interpreter_ends_with_what_it_has_to_do_and_to_say(serve, connect):
        served = serve(SAYS_AT_ITS_END, "--workers", "1", "--worker-kind", "interpreter").ready()
        connect().call("say")
        assert served.end() == 0
        assert served.process.stdout.read() == "in a call\nat the end\n"

    def refused(module, extension):
        return (
            f"{module} can't be loaded in a sub-interpreter: use --worker-kind process "
            f"(spawn: workerKind: 'process'). module {extension} does not support loading in subinterpreters"
        )

    NUMPY = refused("numpy", "numpy._core._multiarray_umath")

    def test_modules_that_can_not_be_loaded_there_are_refused_with_a_way_out(serve):
        served = serve("import numpy", "--workers", "2", "--worker-kind", "interpreter")
        error = served.answer()["error"]
        assert (error["type"], error["message"]) == ("ImportError", NUMPY)
        assert error["shown"].count("\n") < 8
        assert served.wait() == 1

    @pytest.mark.parametrize(
        ("loading", "message"),
        [("import numpy", NUMPY), ("import_module('readline')", refused("readline", "readline"))],
    )
    def test_calls_that_load_such_modules_are_told_likewise(serve, connect, loading, message):
        source = f"""
            from importlib import import_module
            import isthmus

            @isthmus.export
            def load():
                try:
                    {{}}["no such key"]
                except KeyError:
                    {loading}
        """
        served = serve(source, "--workers", "1", "--worker-kind", "interpreter").ready()
        caller = connect()
        for _ in range(2):
            with pytest.raises(isthmus.PythonError) as told:
                caller.call("load")
            assert (told.value.type, told.value.message) == ("ImportError", message)
        assert served.end() == 0
