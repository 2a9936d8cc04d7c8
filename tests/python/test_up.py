"""`python -m isthmus up`: the stages of a file, what becomes of them, and the log that they share."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

import isthmus


class Up:
    """`isthmus up` of a file, in a process of its own."""

    def __init__(self, folder, text, **options):
        self.file = folder / "pipeline.toml"
        self.file.write_text(textwrap.dedent(text))
        command = [sys.executable, "-m", "isthmus", "up", str(self.file)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **{**streams, **options})
        self.seen = ""

    def until(self, pattern):
        """Reads the log until a line is like that; the match."""
        for line in self.process.stdout:
            self.seen += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern} was not said in: {self.seen}{self.process.stderr.read()}")

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """The exit code, with the rest of the log read."""
        self.seen += self.process.stdout.read()
        return self.process.wait(20)


@pytest.fixture
def up(tmp_path, name):
    started = []

    def up(stages, **options):
        started.append(Up(tmp_path, f'bus = {{ name = "{name}", memory = "64MiB" }}\n{stages}', **options))
        return started[-1]

    yield up
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for stream in (one.process.stdout, one.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def stage(tmp_path):
    """The text of a stage which runs a program."""

    def stage(name, source, **keys):
        program = tmp_path / f"{name}.py"
        program.write_text(textwrap.dedent(source))
        lines = [f"{key} = {value!r}" for key, value in keys.items()]
        return "\n".join(["[[stage]]", f'name = "{name}"', f'command = "python {name}.py"', *lines, ""])

    return stage


WAIT = """
    import signal
    print("waits", flush=True)
    signal.pause()
"""

POLITE = """
    import signal, sys
    def leave(number, frame):
        print("leaves", flush=True)
        sys.exit()
    signal.signal(signal.SIGTERM, leave)
    print("is there", flush=True)
    while True:
        signal.pause()
"""


def is_gone(pid):
    """Whether a process is gone, or nobody has asked yet how it ended."""
    with contextlib.suppress(OSError):
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    return True


# --- running ------------------------------------------------------------------------------------------------


def test_each_worker_knows_its_place_and_joins_the_bus_without_a_name(up, stage, name):
    ran = up(
        stage(
            "look",
            """
            import os, isthmus
            with isthmus.connect() as bus:
                print(bus.name, *(os.environ[key] for key in ("ISTHMUS_STAGE", "ISTHMUS_WORKER", "LEVEL")))
            """,
            workers=2,
            restart="never",
        )
        + "env = { LEVEL = 3 }\n"
    )
    assert ran.wait() == 0
    for worker in (0, 1):
        assert f"look.{worker} | {name} look {worker} 3\n" in ran.seen


def test_a_stage_serves_exports_before_the_others_begin(up, stage, tmp_path):
    (tmp_path / "app.py").write_text(
        "import os, isthmus\n@isthmus.export\ndef square(x):\n    return x * x\n"
    )
    asks = """
        import isthmus
        with isthmus.connect() as bus:
            print(bus.call("square", 7), bus.import_module("math").floor(2.5))
            print(sorted(peer["worker"] for peer in bus.peers() if peer["exports"]))
    """
    serving = '[[stage]]\nname = "app"\nserve = "app.py"\nworkers = 2\nallow = ["math"]\n'
    ran = up(stage("ask", asks, restart="never") + serving)
    assert ran.wait() == 0
    assert "ask.0 | 49 2\n" in ran.seen
    assert "ask.0 | [0, 1]\n" in ran.seen


def test_a_bus_that_is_there_already_is_told_and_nothing_is_started(up, stage, name):
    with isthmus.Host(name):
        ran = up(stage("wait", WAIT))
        assert ran.wait() == 1
    assert ran.process.stderr.read().startswith(f"isthmus: a bus named '{name}' is being served already")
    assert ran.seen == ""


def test_without_a_name_and_a_pipeline_connect_says_what_to_do(monkeypatch):
    monkeypatch.delenv("ISTHMUS_BUS", raising=False)
    with pytest.raises(isthmus.ConnectError, match="ISTHMUS_BUS is not set: name the bus"):
        isthmus.connect()


# --- the log ------------------------------------------------------------------------------------------------


def test_every_line_of_both_outputs_has_the_name_of_its_process(up, stage):
    ran = up(
        stage("talk", "import sys\nprint('one\\n\\ntwo')\nprint('three', file=sys.stderr)", restart="never")
    )
    assert ran.wait() == 0
    said = [line for line in ran.seen.splitlines() if line.startswith("talk.0")]
    assert said == ["talk.0 | one", "talk.0 | ", "talk.0 | two", "talk.0 | three"]
    assert all(re.match(r"(talk\.0|isthmus) \| ", line) for line in ran.seen.splitlines())
    assert ran.process.stderr.read() == ""


def test_lines_come_as_they_are_written_and_the_last_one_needs_no_end(up, stage):
    ran = up(
        stage(
            "talk",
            "import sys\nprint('now')\nsys.stdin.read()\nsys.stdout.write('half')\n" + textwrap.dedent(WAIT),
        )
    )
    ran.until(r"^talk\.0 \| now$")
    ran.until(r"^talk\.0 \| halfwaits$")
    ran.process.terminate()
    assert ran.wait() == 0

    ran = up(stage("talk", "import os\nos.write(1, b'no end')\nos.kill(os.getpid(), 9)", restart="never"))
    assert ran.wait() == 1
    assert "talk.0 | no end\n" in ran.seen


def test_a_line_without_end_is_cut_and_nothing_of_it_is_lost(up, stage):
    ran = up(
        stage(
            "talk", "import os\nfor _ in range(1000):\n    os.write(1, b'0123456789' * 100)", restart="never"
        )
    )
    assert ran.wait() == 0
    said = [line.removeprefix("talk.0 | ") for line in ran.seen.splitlines() if line.startswith("talk.0")]
    assert "".join(said) == "0123456789" * 100_000
    assert max(map(len, said)) <= 1 << 14


def test_names_are_coloured_on_a_terminal_alone(up, stage, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    talk = stage("talk", "print('hello')", restart="never")
    assert up(talk, stdout=theirs).process.wait(20) == 0
    shown = os.read(ours, 65536)
    assert b"\x1b[36mtalk.0 |\x1b[0m hello" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert up(talk, stdout=theirs).process.wait(20) == 0
    assert b"\x1b" not in os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)


def test_a_pipeline_goes_on_when_nobody_reads_its_log_any_more(up, stage, tmp_path, until):
    talks = f"""
        import pathlib
        print("begins", flush=True)
        gate = pathlib.Path({str(tmp_path / "gate")!r})
        while not gate.exists():
            print("talks", flush=True)
        gate.with_suffix(".passed").touch()
    """
    ran = up(stage("talk", talks, restart="never"))
    ran.until("begins")
    ran.process.stdout.close()
    (tmp_path / "gate").touch()
    assert ran.process.wait(20) == 0
    assert (tmp_path / "gate.passed").exists()


def test_a_log_that_does_not_block_loses_nothing(up, stage):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    talks = "for i in range(20_000):\n    print('line', i)\n"
    ran = up(stage("talk", talks, restart="never"), stdout=theirs)
    os.close(theirs)
    with open(ours) as read:
        said = [line for line in read if line.startswith("talk.0")]
    assert said == [f"talk.0 | line {i}\n" for i in range(20_000)]
    assert ran.process.wait(20) == 0


# --- what dies ----------------------------------------------------------------------------------------------


def test_what_dies_is_started_again_after_growing_delays_with_the_reason(up, stage):
    ran = up(
        stage("fail", "import os\nprint('pid', os.getpid(), flush=True)\nraise SystemExit(3)")
        + stage("wait", WAIT)
    )
    for delay in ("0.1", "0.2", "0.4"):
        pid = ran.until(r"^fail\.0 \| pid (\d+)")[1]
        ran.until(
            rf"^isthmus \| fail\.0 \(pid {pid}\) ended with exit code 3; the next one is started in {delay} s"
        )
    pid = ran.until(r"^fail\.0 \| pid (\d+)")[1]
    assert ran.end() == 0
    assert ran.seen.count("wait.0 | waits") <= 1


def test_a_killed_process_is_started_again_and_takes_what_it_had_started_along(up, stage, until):
    starts = """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        print("pids", os.getpid(), child.pid)
    """
    ran = up(stage("start", textwrap.dedent(starts) + textwrap.dedent(WAIT)))
    pid, child = ran.until(r"pids (\d+) (\d+)").groups()
    os.kill(int(pid), signal.SIGKILL)
    ran.until(rf"start\.0 \(pid {pid}\) was killed by SIGKILL; the next one is started in 0.1 s")
    until(lambda: is_gone(child))
    ran.until(r"^start\.0 \| waits")
    assert ran.end() == 0


def test_the_end_of_all_that_end_is_the_end(up, stage, tmp_path):
    done = stage("once", "print('done')", restart="never")
    tries = stage(
        "try",
        f"import pathlib\nfile = pathlib.Path({str(tmp_path / 'tried')!r})\n"
        "again = file.exists()\nfile.touch()\nprint('again', again)\nraise SystemExit(not again)",
        restart="on-failure",
    )
    ran = up(done + tries + stage("stay", POLITE))
    assert ran.wait() == 0
    assert "once.0 | done\n" in ran.seen
    assert "try.0 | again True\n" in ran.seen
    assert re.search(r"try\.0 \(pid \d+\) ended with exit code 1; the next one is started", ran.seen)
    assert re.search(r"try\.0 \(pid \d+\) ended with exit code 0: it is done", ran.seen)


def test_a_failure_of_what_is_started_once_ends_all(up, stage):
    ran = up(stage("once", "raise SystemExit(9)", restart="never") + stage("stay", WAIT, workers=2))
    assert ran.wait() == 1
    assert re.search(
        r"isthmus \| once\.0 \(pid \d+\) ended with exit code 9, and is not to be started again", ran.seen
    )


def test_an_app_that_can_not_be_imported_ends_all(up, tmp_path):
    (tmp_path / "app.py").write_text("import no_such_module\n")
    ran = up('[[stage]]\nname = "app"\nserve = "app.py"\n')
    assert ran.wait() == 1
    assert "isthmus | ModuleNotFoundError: No module named 'no_such_module'" in ran.seen


# --- ending and rolling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_stage_finish(up, stage, number):
    ran = up(stage("stay", POLITE, workers=3))
    for _ in range(3):
        ran.until(r"stay\.\d \| is there")
    assert ran.end(number) == 0
    assert ran.seen.count(" | leaves\n") == 3


def test_it_ends_with_its_terminal(up, stage):
    ours, terminal = pty.openpty()

    def has_terminal():
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    ran = up(stage("stay", POLITE), preexec_fn=has_terminal)
    os.close(terminal)
    ran.until(r"stay\.0 \| is there")
    os.close(ours)
    assert ran.wait() == 0
    assert "stay.0 | leaves\n" in ran.seen


def test_a_signal_reaches_what_a_shell_has_started_too(up, stage, tmp_path):
    (tmp_path / "polite.py").write_text(textwrap.dedent(POLITE))
    ran = up(
        stage(
            "stay",
            f"""
        import subprocess, sys
        subprocess.run(["sh", "-c", "{sys.executable} {tmp_path}/polite.py; true"])
    """,
        )
    )
    ran.until(r"stay\.0 \| is there")
    assert ran.end() == 0
    assert "stay.0 | leaves\n" in ran.seen


def test_what_the_environment_of_a_stage_names_is_there_whatever_its_name(up, stage):
    ran = up(
        stage("one", "import os\nprint(os.environ['app.mode'], flush=True)", restart="never")
        + 'env = { "app.mode" = "quick" }\n'
    )
    ran.until(r"one\.0 \| quick")


def test_a_log_that_nobody_reads_keeps_nobody_from_ending_it(up, stage, until):
    ran = up(stage("flood", "while True: print('x' * 1000, flush=True)"))

    # Another end for writing, to ask the kernel: how much a pipe holds differs from user to user.
    with open(f"/proc/self/fd/{ran.process.stdout.fileno()}", "wb", buffering=0) as pipe:
        until(lambda: not select.select([], [pipe], [], 0)[1])
    ran.process.send_signal(signal.SIGTERM)
    assert ran.process.wait(30) == 0


def test_what_does_not_finish_is_killed_after_a_time(up, stage):
    ran = up(
        "drain = 0.1\n"
        + stage(
            "deaf", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(WAIT)
        )
    )
    ran.until(r"deaf\.0 \| waits")
    assert ran.end() == 0
    assert re.search(r"deaf\.0 \(pid \d+\) is killed: it did not end within 0.1 s", ran.seen)


def test_a_second_signal_ends_all_at_once(up, stage, until):
    deaf = """
        import os, signal
        signal.signal(signal.SIGTERM, lambda number, frame: print("heard", flush=True))
        print("pid", os.getpid(), flush=True)
        while True:
            signal.pause()
    """
    ran = up(stage("deaf", deaf))
    pid = ran.until(r"deaf\.0 \| pid (\d+)")[1]
    ran.process.terminate()
    ran.until("heard")
    assert ran.end() == 128 + signal.SIGTERM
    until(lambda: is_gone(pid))


def test_when_it_is_killed_nothing_that_it_has_started_lives_on(up, stage, until, sockets, name):
    starts = """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        print("pids", os.getpid(), child.pid)
    """
    ran = up(stage("start", textwrap.dedent(starts) + textwrap.dedent(WAIT), workers=2))
    pids = [pid for _ in range(2) for pid in ran.until(r"pids (\d+) (\d+)").groups()]
    assert not any(is_gone(pid) for pid in pids)
    ran.end(signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids))
    for left in sockets.glob(f"{name}.*"):
        left.unlink()


def test_sighup_replaces_one_process_after_the_other(up, stage):
    ran = up(stage("stay", POLITE, workers=2))
    for _ in range(2):
        ran.until(r"stay\.\d \| is there")
    ran.process.send_signal(signal.SIGHUP)
    ran.until("isthmus | rolled")
    assert [ran.seen.count(f"stay.{worker} | leaves") for worker in (0, 1)] == [1, 1]
    assert ran.seen.index("stay.0 | leaves") < ran.seen.index("stay.1 | leaves")
    while ran.seen.count("is there") < 4:
        ran.until("is there")
    assert ran.end() == 0
    assert "started in" not in ran.seen


# --- mistakes in the file -----------------------------------------------------------------------------------

STAGE = '[[stage]]\nname = "a"\ncommand = "python -V"\n'


def check(folder, text, *options):
    file = folder / "pipeline.toml"
    file.write_text(text)
    command = [sys.executable, "-m", "isthmus", "up", "pipeline.toml", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stage = 3\n", "stage: there is none: begin each with [[stage]]"),
        ("", "stage is missing: begin each with [[stage]]"),
        ("[[stages]]\n", "unknown key 'stages': did you mean 'stage'?"),
        ("[bus\n", "is no TOML: "),
        ('bus = "x"\n' + STAGE, "bus: 'x' is no table"),
        ('[bus]\nname = "a/b"\n' + STAGE, "bus: name: 'a/b' can't be the name of a bus: use letters"),
        ('[bus]\nmemry = "1GiB"\n' + STAGE, "bus: unknown key 'memry': did you mean 'memory'?"),
        ('[bus]\nmemory = "lots"\n' + STAGE, "bus: memory: 'lots' is no amount of memory: write it like"),
        ("[bus]\nmemory = true\n" + STAGE, "bus: memory: True is no amount of memory"),
        ("[bus]\nmemory = [1]\n" + STAGE, "bus: memory: [1] is no amount of memory"),
        ('[bus]\nmemory = "1MiB"\nquota = "2MiB"\n' + STAGE, "bus: quota: is more than the bus has memory"),
        (STAGE + 'env = { "A=B" = "c" }\n', "stage 'a': env: 'A=B' = 'c' can't be in an environment"),
        (
            '[[stage]]\nname = "a"\ncommand = "make && ./run"\n',
            "stage 'a': command: no shell runs it, so '&&' would be an argument: "
            'write ["sh", "-c", "make && ./run"]',
        ),
        *(
            (
                f"[[stage]]\nname = 'a'\ncommand = {json.dumps(command)}\n",
                f"stage 'a': command: no shell runs it, so '{word}' would be an argument: write "
                + json.dumps(["sh", "-c", command]),
            )
            for command, word in (
                ("echo $HOME *.py", "$HOME"),
                ("cat *.py", "*.py"),
                ("cat ~/notes", "~/notes"),
                ('echo "it is $(date)"', "$(date)"),
                ("echo '$HOME' x${HOME}", "x${HOME}"),
            )
        ),
        ("drain = -1\n" + STAGE, "drain: -1 is no number of seconds"),
        ("dran = 1\n" + STAGE, "unknown key 'dran': did you mean 'drain'?"),
        ("[[stage]]\n", 'stage 1: name is missing: give the stage one, like name = "read"'),
        ('[[stage]]\nnmae = "a"\n', "stage 1: unknown key 'nmae': did you mean 'name'?"),
        ('[[stage]]\nname = "a b"\n', "stage 1: name: 'a b' can't be the name of a stage: use letters"),
        (STAGE + STAGE, "two stages are called 'a': give each a name of its own"),
        (
            '[[stage]]\nname = "a"\nworkers = 2\n',
            "stage 'a': needs either 'command', what its workers run, or 'serve'",
        ),
        (
            STAGE + 'serve = "app.py"\n',
            "stage 'a': has both 'command', what its workers run, and 'serve', an app of exports: keep one",
        ),
        ('[[stage]]\nname = "a"\ncomand = "x"\n', "stage 'a': unknown key 'comand': did you mean 'command'?"),
        ('[[stage]]\nname = "a"\nserves = "x"\n', "stage 'a': unknown key 'serves': did you mean 'serve'?"),
        (STAGE + 'comand = "x"\n', "stage 'a': unknown key 'comand': did you mean 'command'?"),
        (STAGE + "colour = 3\n", "stage 'a': unknown key 'colour': the keys here are name, env, command, "),
        (STAGE + "allow = []\n", "stage 'a': unknown key 'allow'"),
        (STAGE + "workers = 0\n", "stage 'a': workers: 0 is no whole number from 1 to 62"),
        (STAGE + "workers = 1.5\n", "stage 'a': workers: 1.5 is no whole number from 1 to 62"),
        (
            STAGE + 'workers = 40\n[[stage]]\nname = "b"\ncommand = "true"\nworkers = 40',
            "80 workers are too many",
        ),
        (STAGE + 'restart = "often"\n', "stage 'a': restart: 'often' is none of always, on-failure, never"),
        (STAGE + "env = { A = true }\n", "stage 'a': env: True is no text: write it in quotes"),
        (
            '[[stage]]\nname = "a"\ncommand = "no-such-thing"\n',
            "stage 'a': command: there is no program 'no-such-thing'",
        ),
        ('[[stage]]\nname = "a"\ncommand = "\'x"\n', "stage 'a': command: No closing quotation: quote it"),
        (
            '[[stage]]\nname = "a"\ncommand = 3\n',
            "stage 'a': command: is neither a text nor a list of texts",
        ),
        ('[[stage]]\nname = "a"\ncommand = []\n', "stage 'a': command: is empty: say what to run, like "),
        ('[[stage]]\nname = "a"\ncommand = ""\n', "stage 'a': command: is empty: say what to run, like "),
        ('[[stage]]\nname = "a"\nserve = "app.py"\n', "stage 'a': serve: there is no file "),
        ('[[stage]]\nname = "a"\nserve = "app"\nallow = "x"\n', "stage 'a': allow: is no list of texts"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(tmp_path, text, told):
    found = check(tmp_path, text)
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith(f"isthmus: pipeline.toml: {told}")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["echo '$HOME *'", 'echo "* ~"', 'echo \\* a~b 5$ "\\$HOME"'])
def test_what_a_shell_would_leave_as_it_is_is_none(tmp_path, command):
    found = check(tmp_path, f"[[stage]]\nname = 'a'\ncommand = {json.dumps(command)}\n", "--check")
    assert (found.returncode, found.stderr) == (0, "")


def test_a_file_that_is_not_there_is_a_mistake(tmp_path):
    command = [sys.executable, "-m", "isthmus", "up", "other.toml"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    told = f"isthmus: there is no file {tmp_path / 'other.toml'}; docs/pipelines.md shows one\n"
    assert (found.returncode, found.stderr) == (2, told)


def test_check_only_checks(tmp_path):
    found = check(tmp_path, STAGE + "workers = 2\n", "--check")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "pipeline.toml: 1 stages, 2 processes, bus 'pipeline'\n"
    assert check(tmp_path, "", "--check").returncode == 2
