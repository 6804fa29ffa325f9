"""Asks a process in which nothing was prepared, with `sys.remote_exec` of Python 3.14 (PEP 768) (L5)."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from otel_connleak import version
from otel_connleak.cli.process import NoAnswer, Target, not_permitted
from otel_connleak.config import variable

SOCKET: Final = f"{variable('socket')}=1"
"""What is set in the environment of a service that is to have a socket."""
PATIENCE: Final = 20.0
"""Seconds until the main thread must have run some Python: an idle worker of gunicorn does so every 15."""
_SAY_AFTER: Final = 2.0
_FIRST: Final = 14
_LARGEST: Final = 1 << 28
_PAUSE: Final = 0.01

# Runs in the main thread of the service, between any two of its instructions: so it starts a thread, and the
# service goes on. It imports nothing that is not there, and raises nothing.
_SCRIPT: Final = """\
def answer(path):
    import os
    import sys

    def write(text):
        descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def ask():
        try:
            text = engine.socket.answer()
        except Exception:
            text = b'{"error": "other version"}'
        try:
            write(text)
        except Exception:  # who has asked is gone
            pass

    try:
        instrumentor = sys.modules.get("otel_connleak.instrumentor")
        engine = instrumentor.engine() if instrumentor is not None else None
        if engine is None:
            write(b'{"error": "not instrumented"}')
        else:
            sys.modules["otel_connleak.native"].Thread(ask, "otel-connleak-answer").start()
    except Exception:
        pass

"""


def by_remote_exec(target: Target, patience: float = PATIENCE) -> bytes:
    """What it answers.

    Raises:
        NoAnswer: it cannot be asked in this way, or has not answered in ``patience`` seconds.
    """
    run = _remote_exec(target)
    with tempfile.TemporaryDirectory(prefix="otel-connleak-") as folder:
        script, result = Path(folder, "ask.py"), Path(folder, "answer.json")
        with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{_SCRIPT}answer({str(result)!r})\n")
        if os.geteuid() not in target.users:  # we are root, and it is to read this
            os.chown(script, target.users[0], -1)
            os.chown(folder, target.users[0], -1)
        _send(run, target, str(script))
        try:
            _wait(target, result, patience)
        except BaseException:
            # What it would run later is gone by then. This is there, and does nothing.
            with contextlib.suppress(OSError, RuntimeError):
                run(target.pid, version.__file__)
            raise
        return _read(target, result)


def _remote_exec(target: Target) -> Callable[[int, str], None]:
    """The function, if it can be used between this Python and that of the process."""
    pid, ours = target.pid, sys.version_info.minor
    if target.program is not None and target.minor is None:
        raise NoAnswer(f"process {pid} is not instrumented: it is no Python, but {target.program}")
    if target.minor is not None and target.minor < _FIRST:
        raise NoAnswer(
            f"process {pid} ({target.python}) has no socket: it is not instrumented, or was not started with "
            f"{SOCKET}; without that only Python 3.14 or later can be asked"
        )
    run: Any = getattr(sys, "remote_exec", None)
    if run is None or target.minor not in (None, ours):
        raise NoAnswer(
            f"process {pid} ({target.python}) has no socket, and this is Python 3.{ours}: install "
            f"otel-connleak for {target.python} as well and ask with that, or start the service with {SOCKET}"
        )
    return run  # type: ignore[no-any-return]  # of a Python that is newer than the one the types are read for


def _send(run: Callable[[int, str], None], target: Target, script: str) -> None:
    pid = target.pid
    try:
        run(pid, script)
    except PermissionError:
        raise not_permitted(
            pid,
            "the system does not let this user write to its memory (ptrace; on Linux see "
            f"kernel.yama.ptrace_scope); ask as root, or start the service with {SOCKET}",
        ) from None
    except ProcessLookupError:
        raise NoAnswer(f"there is no process {pid}") from None
    except (RuntimeError, OSError) as error:
        raise NoAnswer(
            f"process {pid} ({target.python}) cannot be asked: {error}; start the service with {SOCKET}"
        ) from None


def _wait(target: Target, result: Path, patience: float) -> None:
    began = time.monotonic()
    said = False
    while not result.exists():
        try:
            os.kill(target.pid, 0)
        except ProcessLookupError:
            raise NoAnswer(f"process {target.pid} has ended") from None
        waited = time.monotonic() - began
        if waited > patience:
            raise NoAnswer(
                f"process {target.pid} has not answered for {patience:g} s: its main thread has run no "
                "Python meanwhile, because it waits for a lock or in a system call; started with "
                f"{SOCKET} it answers even then"
            )
        if waited > _SAY_AFTER and not said:
            said = True
            print(f"waiting until the main thread of process {target.pid} runs Python again", file=sys.stderr)
        time.sleep(_PAUSE)


def _read(target: Target, result: Path) -> bytes:
    """Read the answer. Where we are root the folder is another user's, who may have put links there."""
    wrong = NoAnswer(f"what process {target.pid} has answered is no file of its own")
    try:
        descriptor = os.open(result, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise wrong from None
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in target.users:
            raise wrong
        return file.read(_LARGEST)
