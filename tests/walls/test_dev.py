"""What ./dev takes is told before anything is built."""

import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).resolve().parents[2] / "dev"


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["biuld"], "there is no 'biuld'"),
        (["build", "--bogus"], "'build' does not take '--bogus'"),
        (["build", "release"], "'build' does not take 'release'"),
        (["test", "--bogus"], "'test' does not take '--bogus'"),
        (["test", "walls", "--bogus"], "'test' does not take '--bogus'"),
        (["test", "--runtimes", "--bogus"], "'test' does not take '--bogus'"),
        (["demo", "--bogus"], "'demo' does not take '--bogus'"),
        (["lint", "--fix"], "'lint' does not take '--fix'"),
    ],
)
def test_what_it_does_not_take_is_a_usage_error(arguments, error):
    done = dev(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dev: {error}; ./dev help tells what there is\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["bench", "--bogus"], "Unknown option '--bogus'"),
        (["bench", "--quick", "--only", "bogus"], "no case is called 'bogus'"),
        (["soak", "--bogus"], "Unknown option '--bogus'"),
        (["soak", "--hours", "bogus"], "--hours bogus: no number"),
    ],
)
def test_what_a_program_that_it_starts_does_not_take_is_one_too(arguments, error):
    done = dev(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{error}; see --help\n")


@pytest.mark.parametrize("command", ["bench", "soak"])
def test_help_of_such_a_program_is_its_own(command):
    done = dev(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: ./dev {command} ")


@pytest.mark.parametrize("command", ["build", "test", "demo", "format", "lint"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_shown_instead_of_anything_being_done(command, option):
    done = dev(command, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dev("help").stdout
