"""The app of the command line: importing it, and telling the parent process what became of that."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import _isthmus, host
from .errors import ConnectError
from .exports import registry

__all__ = [
    "DONE",
    "FAILED",
    "NO_SUCH_BUS",
    "USAGE",
    "Lifeline",
    "about",
    "about_loading",
    "import_again",
    "import_app",
    "imported_files",
    "warn_of_no_exports",
]

log = logging.getLogger("isthmus")

DONE, FAILED, USAGE, NO_SUCH_BUS = 0, 1, 2, 3  # exit codes


class Lifeline:
    """A socket to the parent: told once whether the host is ready; its hang-up ends this process."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    @property
    def has_parent(self) -> bool:
        return self._fd is not None

    def watch(self) -> None:
        """From now on."""
        if self._fd is not None:
            _isthmus.watch_parent(self._fd)

    def say(self, message: dict[str, Any]) -> None:
        if self._fd is None:
            return
        line = json.dumps(message).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:
            pass  # the parent is gone, which the watch deals with


imported: tuple[str, str] | None = None  # the app of this process that is a file: that, and the module's name


def import_app(app: str) -> None:
    """Imports the app, a file or a module's name, its folder first on the path as with `python app.py`."""
    host.loading = True
    try:
        _import(app)
    finally:
        host.loading = False


def import_again(file: str, name: str) -> None:
    """Imports the app of another process in this one, where functions are looked for by their names. Once."""
    with _importing:
        if imported is None:
            host.loading = True
            try:
                sys.path.insert(0, str(Path(file).parent))
                _import_file(file, name)
            finally:
                host.loading = False


_importing = threading.Lock()


def _import(app: str) -> None:
    path = Path(app)
    if not path.is_file():
        _import_module(app, "" if path.is_absolute() else f" in {os.getcwd()}")
        return
    sys.path.insert(0, str(path.parent.resolve()))
    sys.argv = [app]
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names or not path.stem.isidentifier()
    _import_file(str(path.resolve()), "isthmus_app" if taken else path.stem)


def _import_file(file: str, name: str) -> None:
    global imported
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    imported = file, name


def _import_module(app: str, where: str) -> None:
    if app.endswith(".py") or os.sep in app:
        raise FileNotFoundError(f"there is no file {app}{where}")
    nothing = FileNotFoundError(f"there is neither a file nor a module '{app}'{where}")
    if re.fullmatch(r"\w+(\.\w+)*", app) is None:
        raise nothing
    sys.path.insert(0, os.getcwd())
    sys.argv = [app]
    try:
        importlib.import_module(app)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{app}.".startswith(f"{error.name}."):
            raise  # it is one that the app imports
        raise nothing from None


def _traceback_of(error: BaseException) -> str:
    """The traceback without the frames of what loads the app, which say nothing about it."""
    whole = traceback.TracebackException.from_exception(error)
    hidden = (
        *(str(Path(__file__).with_name(name)) for name in ("app.py", "workers.py", "__main__.py")),
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
        importlib.__file__,
    )
    kept = [frame for frame in whole.stack if frame.filename not in hidden]
    whole.stack[:] = kept
    return "".join(whole.format())


def about(error: BaseException, shown: str | None = None, code: int = FAILED) -> dict[str, Any]:
    """What is told of an error that keeps a host from serving: to programs, and as `shown` to people."""
    if isinstance(error, ConnectError) and error.no_bus:
        code = NO_SUCH_BUS
    told = {"type": type(error).__name__, "message": str(error), "traceback": _traceback_of(error)}
    return {"error": {**told, "shown": shown or str(error), "code": code}}


def about_loading(app: str, error: BaseException) -> dict[str, Any]:
    """Likewise of an error that `import_app` has raised."""
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return about(error, code=USAGE)
    told = about(error, f"{app} could not be imported\n{_traceback_of(error)}")
    read = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if isinstance(error, SyntaxError):
        read.add(error.filename or "")
    return {**told, "files": imported_files(read)}


def imported_files(read: Iterable[str] = ()) -> list[str]:
    """The files of the modules that are imported, and of those ``read``, without those of Python and of
    installed packages.
    """
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed = tuple(os.path.join(folder, "") for folder in (*folders, str(Path(__file__).parent)))
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    return sorted(
        file for file in files.union(read) if file.endswith(".py") and not file.startswith(installed)
    )


def warn_of_no_exports(app: str) -> None:
    if not registry.names():
        log.warning("%s exports nothing: put @isthmus.export before the functions that it offers", app)
