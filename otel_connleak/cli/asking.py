"""Asks a process through the socket that it has opened (L5)."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final

from otel_connleak.cli.process import NoAnswer, Target, not_permitted
from otel_connleak.holds_socket import REQUEST

PATIENCE: Final = 5.0
"""Seconds within which a process answers."""


def through_socket(target: Target, patience: float = PATIENCE) -> bytes | None:
    """What it answers, or None if it has no socket.

    Raises:
        NoAnswer: it has one, and does not answer.
    """
    for path in target.sockets():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience)
            try:
                connection.connect(path)
            except OSError:
                continue  # there is none, it is left from another process, or the place is not ours to enter
            if not _is_of(target, connection):
                continue
            try:
                return _answer(connection, time.monotonic() + patience)
            except TimeoutError:
                raise NoAnswer(
                    f"process {target.pid} has not answered for {patience:g} s: it is stopped, or in code "
                    "that does not let go of the interpreter lock"
                ) from None
            except OSError as error:
                raise NoAnswer(f"process {target.pid} has broken off: {error.strerror or error}") from None
            except EOFError:
                raise not_permitted(target.pid, "it answers only its own user, and root") from None
    return None


def _is_of(target: Target, connection: socket.socket) -> bool:
    """Whether it is this process that listens, as far as the system says."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    pid, uid, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    # Of the time when it has opened the socket: a service may have begun as root.
    return pid == target.pid and uid in (0, *target.users, os.geteuid())


def _answer(connection: socket.socket, deadline: float) -> bytes:
    connection.sendall(REQUEST)
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(1 << 16)
        if not part:
            raise EOFError
        parts.append(part)
    return b"".join(parts)
