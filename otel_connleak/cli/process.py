"""What is known from outside of the process that is to be asked (L5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from otel_connleak.private_folder import folders, socket_path

_VERSION: Final = re.compile(r"python3\.(\d+)")


class NoAnswer(Exception):
    """The process cannot be asked, or did not answer; the message is for people."""


@dataclass(frozen=True)
class Target:
    """A process that exists, and that we may ask.

    Attributes:
        pid: its number.
        users: its users: effective, real, saved; our own where the system does not say.
        own_pid: its number as it knows it itself: another one in a container.
        program: the path of its program, or None where the system does not say.
        minor: 14 for Python 3.14, or None if it is no Python as far as can be seen.
        environ: the environment that it was started with; empty where the system does not say.
    """

    pid: int
    users: tuple[int, ...]
    own_pid: int
    program: str | None = None
    minor: int | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> str:
        """``Python 3.14``, or ``Python`` where the version is not known."""
        return "Python" if self.minor is None else f"Python 3.{self.minor}"

    def sockets(self) -> Iterator[str]:
        """The paths where its socket may be, the likely ones first."""
        users = dict.fromkeys((*self.users, os.geteuid()))
        environments: tuple[Mapping[str, str], ...] = (self.environ, os.environ, {})
        places = [place for user in users for each in environments for place in folders(each, user)]
        places += [f"/run/user/{user}/otel-connleak" for user in users]
        for root in ("", f"/proc/{self.pid}/root"):  # the second one for a container, and for a private /tmp
            for place in dict.fromkeys(places):
                yield root + socket_path(place, self.own_pid)


def find(pid: int) -> Target:
    """Look at a process.

    Raises:
        NoAnswer: there is none, or it is another user's.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        raise NoAnswer(f"there is no process {pid}") from None
    except PermissionError:
        pass  # it says below whose it is
    proc = Path("/proc", str(pid))
    try:
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    except FileNotFoundError:
        if Path("/proc/self/status").exists():
            raise NoAnswer(f"there is no process {pid}") from None
        return _elsewhere(pid)
    if status["State"].split()[0] in "ZX":
        raise NoAnswer(f"process {pid} has ended")
    real, effective, saved, _ = map(int, status["Uid"].split())
    if os.geteuid() not in (0, effective):
        raise not_permitted(pid, f"it belongs to user {effective}: ask as that user, or as root")
    program = _program(proc)
    return Target(
        pid,
        (effective, real, saved),
        int(status.get("NSpid", str(pid)).split()[-1]),
        program,
        _minor(proc, program),
        _environ(proc),
    )


def not_permitted(pid: int, why: str) -> NoAnswer:
    """The error that the process may not be asked."""
    return NoAnswer(f"not permitted to ask process {pid}: {why}")


def _elsewhere(pid: int) -> Target:
    """A process on a system without ``/proc``."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        raise not_permitted(pid, "it belongs to another user: ask as that user, or as root") from None
    return Target(pid, (os.geteuid(),), pid)


def _program(proc: Path) -> str | None:
    try:
        return str((proc / "exe").readlink())
    except OSError:
        return None


def _minor(proc: Path, program: str | None) -> int | None:
    """The version by the program's name, or by the libraries that it has loaded."""
    found = _VERSION.search(os.path.basename(program or ""))
    if found is None:
        try:
            found = _VERSION.search((proc / "maps").read_text(errors="replace"))
        except OSError:
            return None
    return int(found[1]) if found is not None else None


def _environ(proc: Path) -> dict[str, str]:
    try:
        content = (proc / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
