"""The folder of one user for the sockets of the processes that can be asked (L0)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping


class Refused(Exception):
    """The folder is not one that only its owner can enter; the message is for people."""


def folders(environ: Mapping[str, str], uid: int) -> list[str]:
    """Where the sockets of a user's processes may be, the best place first.

    Args:
        environ: the environment of the process that opens the socket.
        uid: its effective user.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    temporary = environ.get("TMPDIR", "") or "/tmp"
    named = [os.path.join(runtime, "otel-connleak")] if os.path.isabs(runtime) else []
    return [*named, os.path.join(os.path.abspath(temporary), f"otel-connleak-{uid}")]


def socket_path(folder: str, pid: int) -> str:
    """The socket of a process in such a folder."""
    return os.path.join(folder, f"{pid}.sock")


def make(folder: str, uid: int) -> None:
    """Make the folder, or take the one that is there if only this user can enter it.

    Raises:
        Refused: somebody else has made it, or others could enter it.
        OSError: it cannot be made.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{folder} is no folder")  # a symbolic link is none either
    if found.st_uid != uid:
        raise Refused(f"{folder} belongs to user {found.st_uid}, not to user {uid}")
    if found.st_mode & 0o077:
        raise Refused(f"{folder} is open to other users (mode {stat.S_IMODE(found.st_mode):o}, not 700)")
