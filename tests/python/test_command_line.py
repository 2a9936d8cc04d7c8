"""`python -m isthmus serve` and the lifeline that ties a host to its parent."""

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import isthmus

path_of_isthmus = str(Path(isthmus.__file__).parent.parent)

ANSWER = """
    import isthmus

    @isthmus.export
    def answer():
        return 42
"""


def isthmus_command(*arguments, **options):
    command = [sys.executable, "-m", "isthmus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, **options)


def test_it_serves_a_file_until_it_is_told_to_stop(serve, name):
    served = serve(ANSWER).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("answer") == 42
    assert served.end() == 0
    assert served.stderr() == ""


def test_the_bus_has_the_files_name_unless_one_is_given(tmp_path):
    app = tmp_path / f"own-{os.getpid()}.py"
    app.write_text("import isthmus\n\n@isthmus.export\ndef answer():\n    return 42\n")
    with subprocess.Popen(
        [sys.executable, "-m", "isthmus", "serve", app], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr.readline() == f"isthmus: serving '{app.stem}' with 1 exports\n"
            with isthmus.connect(app.stem) as bus:
                assert bus.call("answer") == 42
        finally:
            process.terminate()
        assert process.stderr.read() == f"isthmus: stopped serving '{app.stem}'\n"
    assert process.returncode == 0


def test_callers_may_import_what_is_allowed(serve, name):
    serve(ANSWER, "--allow", "math,os.path").ready()
    with isthmus.connect(name) as bus:
        math = bus.import_module("math")
        assert math.floor(math.pi) == 3
        assert bus.import_module("os.path").join("a", "b") == "a/b"
        with pytest.raises(
            isthmus.PythonError, match=r"PermissionError: .* does not allow .* 'os': .*--allow os"
        ):
            bus.import_module("os")


def test_and_nothing_unless_it_is_told_so(serve, name):
    serve(ANSWER).ready()
    with isthmus.connect(name) as bus, pytest.raises(isthmus.PythonError, match="PermissionError"):
        bus.import_module("math")


def test_a_star_allows_everything(serve, name):
    serve(ANSWER, "--allow", "*").ready()
    with isthmus.connect(name) as bus:
        assert bus.import_module("fractions").Fraction(1, 3).denominator == 3
        with pytest.raises(isthmus.PythonError, match="ModuleNotFoundError"):
            bus.import_module("no_such_module")


def test_it_serves_a_module_by_its_name(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "app.py").write_text(
        "import isthmus\nisthmus.export(name='where')(lambda: __name__)\n"
    )
    name = f"module-{os.getpid()}"
    command = [sys.executable, "-m", "isthmus", "serve", "pack.app", "--bus", name]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "serving" in process.stderr.readline()
            with isthmus.connect(name) as bus:
                assert bus.call("where") == "pack.app"
        finally:
            process.terminate()


def test_an_app_finds_its_neighbours_and_its_arguments(serve, name, tmp_path):
    (tmp_path / "neighbour.py").write_text("WORD = 'hello'\n")
    serve("""
        import sys, pickle
        import isthmus, neighbour

        class Thing:
            pass

        @isthmus.export
        def look():
            pickles = type(pickle.loads(pickle.dumps(Thing()))) is Thing
            return [neighbour.WORD, sys.argv, __name__, pickles, __file__]
    """).ready()
    with isthmus.connect(name) as bus:
        word, argv, module, pickles, file = bus.call("look")
    assert (word, module, pickles) == ("hello", "app", True)
    assert argv == [file]


def test_an_app_may_be_called_like_a_module_of_the_library(tmp_path, name):
    app = tmp_path / "json.py"
    app.write_text("import isthmus\n\n@isthmus.export\ndef answer():\n    return 42\n")
    command = [sys.executable, "-m", "isthmus", "serve", app, "--bus", name]
    with subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "serving" in process.stderr.readline()
            with isthmus.connect(name) as bus:
                assert bus.call("answer") == 42
        finally:
            process.terminate()


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["serve"], ["serve", "app.py", "--memory", "lots"]])
def test_a_wrong_command_is_a_usage_error(arguments):
    done = isthmus_command(*arguments)
    assert done.returncode == 2
    assert "usage: isthmus" in done.stderr


def test_an_unknown_command_is_told_the_public_ones_alone():
    choices = isthmus_command("unknown").stderr.partition("(choose from")[2]
    named = re.findall(r"\w+", choices)
    assert {"serve", "up", "ls"} <= set(named)
    assert "work" not in named  # what supervisors start


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_is_there(arguments):
    done = isthmus_command(*arguments)
    assert done.returncode == 0
    assert "serve" in done.stdout
    assert "lifeline" not in done.stdout


@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("missing.py", "there is no file missing.py in {}"),
        ("no/such/file", "there is no file no/such/file in {}"),
        ("/no/such/file.py", "there is no file /no/such/file.py"),
        ("not a module", "there is neither a file nor a module 'not a module' in {}"),
        ("no_such_module", "there is neither a file nor a module 'no_such_module' in {}"),
        ("no_such.module", "there is neither a file nor a module 'no_such.module' in {}"),
    ],
)
def test_an_app_that_is_not_there_is_a_usage_error_of_one_line(tmp_path, app, error):
    done = isthmus_command("serve", app, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path_of_isthmus})
    assert (done.returncode, done.stderr) == (2, f"isthmus: {error.format(tmp_path)}\n")


def test_a_module_that_lacks_another_is_not_taken_for_one_that_is_not_there(tmp_path):
    (tmp_path / "lacks.py").write_text("import no_such_module")
    done = isthmus_command("serve", "lacks", cwd=tmp_path, env={**os.environ, "PYTHONPATH": path_of_isthmus})
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_it_tells_its_version():
    package = json.loads(Path(__file__, "../../../adapters/node/package.json").resolve().read_text())
    done = isthmus_command("--version")
    assert (done.returncode, done.stdout) == (0, f"isthmus {package['version']}\n")
    assert isthmus.__version__ == package["version"]


FAILING_APP = """
    import isthmus

    def prepare():
        return {}["model"]

    prepare()
"""


def test_an_app_that_fails_gives_its_traceback_without_the_machinery(serve, sockets, name):
    served = serve(FAILING_APP)
    error = served.answer()["error"]
    assert error["type"] == "KeyError"
    assert error["message"] == "'model'"
    assert error["traceback"].startswith("Traceback")
    assert error["traceback"].rstrip().endswith("KeyError: 'model'")
    assert 'return {}["model"]' in error["traceback"]
    assert "importlib" not in error["traceback"]
    assert "__main__" not in error["traceback"]
    assert served.wait() == 1
    assert served.stderr() == ""  # its parent tells it
    assert not (sockets / f"{name}.sock").exists()


def test_without_a_parent_it_prints_the_traceback(tmp_path):
    (tmp_path / "app.py").write_text(textwrap.dedent(FAILING_APP))
    done = isthmus_command("serve", tmp_path / "app.py")
    assert done.returncode == 1
    assert done.stderr.startswith(f"isthmus: {tmp_path / 'app.py'} could not be imported\nTraceback")
    assert done.stderr.endswith("KeyError: 'model'\n")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def broken(:", "SyntaxError"),
        ("import not_installed_anywhere", "ModuleNotFoundError"),
        ("raise SystemExit('no')", "SystemExit"),
    ],
)
def test_so_does_one_that_can_not_be_imported(serve, source, kind):
    served = serve(source)
    error = served.answer()["error"]
    assert error["type"] == kind
    assert "app.py" in error["traceback"]
    assert served.wait() == 1


def test_an_app_that_serves_itself_is_told_how_to_be_run(serve):
    served = serve("import isthmus\nisthmus.serve('own')")
    assert "run it with `python app.py`" in served.answer()["error"]["message"]
    assert served.wait() == 1


def test_an_app_that_exports_nothing_is_served_with_a_warning(serve, name):
    served = serve("x = 1").ready()
    with isthmus.connect(name) as bus, pytest.raises(isthmus.NotExported):
        bus.call("x")
    served.end()
    assert "exports nothing: put @isthmus.export before" in served.stderr()


def test_a_bus_that_is_served_already_is_an_error(serve, name):
    with isthmus.Host(name):
        served = serve(ANSWER)
        error = served.answer()["error"]
        assert error["type"] == "ConnectError"
        assert error["message"].startswith(f"a bus named '{name}' is being served already")
        assert served.wait() == 1


@pytest.mark.parametrize(
    "work", ["while time.monotonic() < end: pass", "time.sleep(30)", "ctypes.PyDLL(None).sleep(30)"]
)
def test_a_host_whose_parent_is_gone_ends_within_a_moment_whatever_it_does(serve, name, work, sockets):
    served = serve(f"""
        import time, ctypes, isthmus

        @isthmus.export
        def work():
            end = time.monotonic() + 30
            {work}
    """).ready()
    with isthmus.connect(name) as bus:
        failures = []

        def call():
            try:
                bus.call("work")
            except isthmus.PeerLost as error:
                failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        while bus.stats()["host"]["gil_takes"] == 0:
            time.sleep(0.01)
        served.line.close()
        served.wait()
        caller.join(20)
        assert len(failures) == 1
    assert not (sockets / f"{name}.sock").exists()


def test_a_host_that_is_idle_ends_in_good_order_when_its_parent_is_gone(serve, name):
    served = serve(ANSWER + "\n    import atexit\n    atexit.register(print, 'good order')\n").ready()
    served.line.close()
    assert served.wait() == 0
    assert served.process.stdout.read() == "good order\n"


def test_a_host_whose_parent_goes_while_it_starts_ends_too(serve):
    served = serve("import time\ntime.sleep(30)")
    time.sleep(0.3)
    served.line.close()
    served.wait()


def test_the_lifeline_does_not_reach_the_hosts_own_children(serve, name):
    serve("""
        import os, subprocess, sys, isthmus

        @isthmus.export
        def descriptors():
            script = "import os; [print(os.readlink(entry)) for entry in os.scandir('/proc/self/fd')]"
            options = {"close_fds": False, "stdout": subprocess.PIPE, "text": True}
            return subprocess.run([sys.executable, "-c", script], **options).stdout
    """).ready()
    with isthmus.connect(name) as bus:
        seen = bus.call("descriptors")
    assert "socket" not in seen
    assert "memfd" not in seen
    assert "eventfd" not in seen
