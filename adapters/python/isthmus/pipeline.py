"""The file of a pipeline: what it says, and one clear word about what is wrong with it."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from . import _isthmus
from .errors import ConnectError
from .host import parse_memory
from .supervisor import Restart
from .workers import command_of_crew

__all__ = ["Mistake", "Pipeline", "Stage", "read"]

SHELL_WORDS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"}
# Of what is in double quotes, a shell expands some.
QUOTED = re.compile(r"""\\.|'[^']*'|"((?:\\.|[^"\\])*)\"""")
EXPANDED = re.compile(r"\S*(?:\$[\w{(]|`|\*)\S*|(?<!\S)~\S*")
MISSING = {"stage": "begin each with [[stage]]", "name": 'give the stage one, like name = "read"'}
MOST_WORKERS = 62  # a bus has 64 places: one is the broker's own, and somebody may want to look

T = TypeVar("T")


class Mistake(Exception):
    """Something in the file is wrong. The text says where, and what to do."""


@dataclass(frozen=True)
class Stage:
    """One stage: ``command`` is what each of its ``workers`` runs; one that ``serves`` is a crew's."""

    name: str
    command: list[str]
    serves: bool
    workers: int
    restart: Restart
    environment: dict[str, str]


@dataclass(frozen=True)
class Pipeline:
    """What a file says. ``folder`` is where it lies, and where all stages run."""

    folder: Path
    bus: str
    memory: int
    quota: int
    drain: float
    stages: list[Stage]


def read(file: str) -> Pipeline:
    """Reads and checks a file. Raises Mistake."""
    path = Path(file)
    top = _Table(file, "", _parse(path))
    bus = _Table(file, "bus: ", top.take("bus", _table, {}))
    name = bus.take("name", _bus_name, None) or _bus_name(
        re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip(".") or "pipeline"
    )
    folder = path.resolve().parent
    pipeline = Pipeline(
        folder,
        name,
        bus.take("memory", _memory, parse_memory("2GiB")),
        bus.take("quota", _memory, 0),
        top.take("drain", _seconds, 30.0),
        [
            _stage(file, number, table, folder, name)
            for number, table in enumerate(top.take("stage", _stages), 1)
        ],
    )
    bus.end()
    top.end()
    if pipeline.quota > pipeline.memory:
        raise Mistake(f"{file}: bus: quota: is more than the bus has memory: one peer can't own that much")
    names = [stage.name for stage in pipeline.stages]
    for name in names:
        if names.count(name) > 1:
            raise Mistake(f"{file}: two stages are called '{name}': give each a name of its own")
    if (count := sum(stage.workers for stage in pipeline.stages)) > MOST_WORKERS:
        raise Mistake(f"{file}: {count} workers are too many: a bus has places for {MOST_WORKERS} of them")
    return pipeline


def _parse(path: Path) -> dict[str, Any]:
    try:
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise Mistake(
            f"{path}: Python before 3.11 reads no TOML by itself: {sys.executable} -m pip install tomli"
        ) from None
    try:
        found: dict[str, Any] = toml.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise Mistake(f"there is no file {path.absolute()}; docs/pipelines.md shows one") from None
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Mistake(f"{path}: is not written in UTF-8 (byte {error.start})") from None
    except toml.TOMLDecodeError as error:
        raise Mistake(f"{path}: is no TOML: {error}") from None
    return found


def _stage(file: str, number: int, found: Any, folder: Path, bus: str) -> Stage:
    if not isinstance(found, dict):
        raise Mistake(f"{file}: stage {number} is no table: begin each stage with [[stage]]")
    name = _Table(file, f"stage {number}: ", found).take("name", _stage_name)
    table = _Table(file, f"stage '{name}': ", found)
    table.take("name", _stage_name)
    environment = _environment(table.take("env", _texts, {}))
    command, app = table.take("command", _command, None), table.take("serve", _text, None)
    if command is not None and app is not None:
        raise table.mistake(
            "has both 'command', what its workers run, and 'serve', an app of exports: keep one"
        )
    if command is None and app is None:
        table.look_for_misspelt("command")
        table.look_for_misspelt("serve")
        raise table.mistake("needs either 'command', what its workers run, or 'serve', an app of exports")
    if command is not None:
        _look_for(table, command[0], folder, environment)
    else:
        assert app is not None
        command = _worker_command(table, app, folder, bus)
    stage = Stage(
        name,
        command,
        app is not None,
        table.take("workers", _count, 1),
        table.take("restart", _restart, "always"),
        environment,
    )
    table.end()
    return stage


def _worker_command(table: _Table, app: str, folder: Path, bus: str) -> list[str]:
    if (app.endswith(".py") or os.sep in app) and not (folder / app).is_file():
        raise table.mistake(f"serve: there is no file {folder / app}")
    allow = table.take("allow", _list_of_texts, None)
    return command_of_crew(
        app,
        bus,
        allow=None if allow is None else ",".join(allow),
        pickle=table.take("pickle", _truth, False),
        numpy_memory=table.take("numpy_memory", _truth, True),
    )


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """That of a stage. `python` is the one that runs this, also where its venv was not activated."""
    found = {**os.environ, "PYTHONUNBUFFERED": "1", "ISTHMUS_PYTHON": sys.executable, **own}
    if sys.prefix != sys.base_prefix and "PATH" not in own:
        found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    return found


def _look_for(table: _Table, program: str, folder: Path, environment: Mapping[str, str]) -> None:
    place = str(folder / program) if os.sep in program else program
    if shutil.which(place, path=environment.get("PATH")) is None:
        raise table.mistake(
            f"command: there is no program '{program}' to be run: install it, or give its path"
        )


class _Table:
    """A table of the file. Its keys are taken one by one; one that nobody takes is a mistake."""

    def __init__(self, file: str, place: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._place = place
        self._values = values
        self._known: list[str] = []

    def take(self, key: str, check: Callable[[Any], T], *otherwise: T) -> T:
        """The value of a key as ``check`` has it, which raises ValueError; else what is given for it."""
        self._known.append(key)
        if key not in self._values and otherwise:
            return otherwise[0]
        if key not in self._values:
            self.look_for_misspelt(key)
            raise self.mistake(f"{key} is missing: {MISSING[key]}")
        try:
            return check(self._values[key])
        except ValueError as error:
            raise self.mistake(f"{key}: {error}") from None

    def look_for_misspelt(self, key: str) -> None:
        for other in difflib.get_close_matches(key, self._values.keys() - self._known, 1):
            raise self.mistake(f"unknown key '{other}': did you mean '{key}'?")

    def end(self) -> None:
        for key in self._values:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, 1)
                hint = (
                    f"did you mean '{close[0]}'?" if close else f"the keys here are {', '.join(self._known)}"
                )
                raise self.mistake(f"unknown key '{key}': {hint}")

    def mistake(self, what: str) -> Mistake:
        return Mistake(f"{self._file}: {self._place}{what}")


# --- what a value has to be: each gives it back, or raises ValueError ---------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text: write it in quotes")
    return value


def _stage_name(value: Any) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", _text(value)) is None:
        raise ValueError(f"'{value}' can't be the name of a stage: use letters, digits, '_' and '-'")
    return str(value)


def _bus_name(value: Any) -> str:
    try:
        _isthmus.socket_path(_text(value))
    except ConnectError as error:
        raise ValueError(error) from None
    return str(value)


def _command(value: Any) -> list[str] | None:
    if isinstance(value, str):
        try:
            value = shlex.split(text := value)
        except ValueError as error:
            raise ValueError(f"{error}: quote it as for a shell, or write a list") from None
        if meant := [word for word in value if word in SHELL_WORDS] or _expanded(text):
            instead = json.dumps(["sh", "-c", text])
            raise ValueError(f"no shell runs it, so '{meant[0]}' would be an argument: write {instead}")
    if value == []:
        raise ValueError('is empty: say what to run, like ["node", "read.mjs"]')
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError('is neither a text nor a list of texts, like ["node", "read.mjs"]')
    if any("\0" in word for word in value):
        raise ValueError("has a NUL character, which no command can have")
    return value


def _expanded(command: str) -> list[str]:
    """The words of it that a shell would expand."""

    def left(quoted: re.Match[str]) -> str:
        return re.sub(r"\\.|[*~]", "", quoted[1] or "")

    return EXPANDED.findall(QUOTED.sub(left, command))


def _list_of_texts(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        raise ValueError('is no list of texts, like ["numpy", "math"]')
    return [_text(each) for each in value]


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no table")
    return value


def _texts(value: Any) -> dict[str, str]:
    for name, each in _table(value).items():
        if not name or "=" in name or "\0" in f"{name}{each}":
            raise ValueError(f"{name!r} = {each!r} can't be in an environment")
    return {key: _text_or_number(each) for key, each in _table(value).items()}


def _text_or_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is no text: write it in quotes")
    return str(value)


def _stages(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError("there is none: begin each with [[stage]]")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_WORKERS:
        raise ValueError(f"{value!r} is no whole number from 1 to {MOST_WORKERS}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def _memory(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f'{value!r} is no amount of memory: write it like "512MiB"')
    return parse_memory(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _restart(value: Any) -> Restart:
    if value not in get_args(Restart):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(Restart))}")
    restart: Restart = value
    return restart
