"""A Unix socket on which this process says who holds what, to its own user only (L1).

It has a thread of its own, which sleeps until somebody connects: it answers also where the main thread waits
in a lock. What is sent to it can change nothing here. Sockets are those of `_socket`, because gevent and
eventlet replace the ones of `socket` by some that wait in an event loop.
"""

from __future__ import annotations

import _socket
import atexit
import logging
import os
import re
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from otel_connleak import private_folder
from otel_connleak.guard import failed
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.native import Latch, Thread

_logger = logging.getLogger(INSTRUMENTATION)

REQUEST: Final = b"holds\n"
"""What a client sends. The answer is one line of JSON."""
_PATIENCE: Final = 2.0
"""Seconds that a client has to ask, and as many to take the answer: others wait meanwhile."""
_AFTER_FAILURE: Final = 1.0
"""Seconds until the next try where no connection can be accepted: the process is out of file descriptors."""
_BACKLOG: Final = 16
_LONGEST_REQUEST: Final = 64
_SOCKET_FILE: Final = re.compile(r"([0-9]+)\.sock")


class HoldsSocket:
    """The socket of this process.

    Args:
        answer: gives the answer, one line; called in the socket's own thread.
        on: whether there is to be one; without it, starting and stopping do nothing.
        patience: seconds that a client has to ask, and as many to take the answer.

    Attributes:
        path: its file while it is open, else None.
    """

    def __init__(self, answer: Callable[[], bytes], *, on: bool = True, patience: float = _PATIENCE) -> None:
        self.answer = answer
        self._on = on
        self._patience = patience
        self._started = False
        self._clear()

    def _clear(self) -> None:
        self._stopping = False
        self._stopped = Latch()
        self._thread: Thread | None = None
        self._listener: _socket.socket | None = None
        self._client: _socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._pid = os.getpid()
        self.path: str | None = None

    def start(self) -> None:
        """Open it and answer until `stop`. Where that is not possible one line says why. Never raises."""
        if not self._on:
            return
        self._started = True
        try:
            if not self._open():
                return
            thread = Thread(self._run, "otel-connleak-socket", unlisted=True)
            thread.start()
            self._thread = thread
            atexit.register(self.stop)
        except (OSError, RuntimeError, private_folder.Refused) as error:
            self._close()
            _logger.warning("no socket to ask this process for its holds: %s", error)
        except Exception:
            self._close()
            failed("holds socket")

    def stop(self) -> None:
        """End the thread, and remove the file. Idempotent."""
        if not self._started or self._pid != os.getpid():
            return
        self._started = False
        atexit.unregister(self.stop)
        self._stopping = True
        self._stopped.open()
        _end(self._client)
        if (not self._is_ours() or not _end(self._listener)) and self.path is not None:
            _is_left(self.path)  # wakes who waits for a client, where shutting down does not
        if self._thread is not None:
            self._thread.join(2 * self._patience)
        self._close()

    def after_fork(self) -> None:
        """Open one of the child's own, in place of the parent's, which goes on there."""
        if not self._started:
            return
        if self._client is not None:
            self._client.close()
        self._close_listener()
        self._clear()
        self.start()

    # --- the file ------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Open it in the first folder where that is possible; returns whether it is open."""
        if peer_of is None:
            _logger.warning("no socket to ask this process for its holds: this system does not say who asks")
            return False
        reasons: list[str] = []
        for folder in private_folder.folders(os.environ, os.geteuid()):
            try:
                private_folder.make(folder, os.geteuid())
                self._listen(folder)
                return True
            except OSError as error:  # there is no such folder, it cannot be written, its name is too long
                reasons.append(f"{folder}: {error.strerror or error}")
        raise OSError("; ".join(reasons))

    def _listen(self, folder: str) -> None:
        path = private_folder.socket_path(folder, os.getpid())
        # Under another name until it listens: who finds it under its own is never refused, unless its process
        # is gone. So a file that is left is known, and replaced.
        new = f"{path}.new"
        remove(new)
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            listener.bind(new)
            os.chmod(new, 0o600)
            listener.listen(_BACKLOG)
            os.rename(new, path)
        except OSError:
            listener.close()
            remove(new)
            raise
        self._listener, self.path = listener, path
        self._identity = _identity(listener)
        for name in os.listdir(folder):
            found = _SOCKET_FILE.fullmatch(name)
            # Of a process that is gone. One in a container that shares this folder may only seem so.
            if found is not None and not _exists(int(found[1])) and _is_left(os.path.join(folder, name)):
                remove(os.path.join(folder, name))

    def _close(self) -> None:
        self._close_listener()
        if self.path is not None:
            remove(self.path)
            self.path = None

    def _close_listener(self) -> None:
        if self._listener is not None:
            if self._is_ours():
                self._listener.close()
            else:
                self._listener.detach()
            self._listener = None

    def _is_ours(self) -> bool:
        """Whether the descriptor is still that of our socket.

        A service that makes itself a daemon closes all it has, and then the number is soon that of another:
        to accept there would steal a client of the service.
        """
        return self._listener is not None and _identity(self._listener) == self._identity

    # --- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            if not self._is_ours() and not self._reopen():
                return
            try:
                descriptor, _ = self._listener._accept()  # type: ignore[union-attr]  # it is open
            except OSError:
                self._stopped.wait(_AFTER_FAILURE)
                continue
            self._client = client = _socket.socket(fileno=descriptor)
            try:
                if not self._stopping:  # after the client is known: `stop` ends it, or it is seen here
                    self._serve(client)
            except OSError:  # it has gone, or took too long
                pass
            except Exception:
                failed("holds socket")
            finally:
                # A child that was forked meanwhile has the connection open as well: closing would not end it.
                _end(client)
                client.close()
                self._client = None

    def _reopen(self) -> bool:
        try:
            self._close()
            return self._open()
        except (OSError, private_folder.Refused) as error:
            _logger.warning("no socket any more to ask this process for its holds: %s", error)
            return False

    def _serve(self, client: Any) -> None:
        deadline = time.monotonic() + self._patience
        client.settimeout(self._patience)
        if peer_of is None or peer_of(client) not in (0, os.geteuid()):
            return  # root may read all of our memory anyway
        asked = b""
        while not asked.endswith(b"\n") and len(asked) < _LONGEST_REQUEST:
            client.settimeout(max(0.001, deadline - time.monotonic()))
            part = client.recv(_LONGEST_REQUEST)
            if not part:
                return
            asked += part
        client.settimeout(self._patience)
        client.sendall(self.answer() if asked == REQUEST else b'{"error": "unknown request"}\n')


def _peer_linux(client: Any) -> int:
    return int(struct.unpack("=iII", client.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))[1])


def _peer_bsd(client: Any) -> int:
    # struct xucred of macOS: version, effective user, groups. 0 is SOL_LOCAL, 1 is LOCAL_PEERCRED.
    return int(struct.unpack_from("=II", client.getsockopt(0, 1, 76))[1])


def _peer() -> Callable[[Any], int] | None:
    if hasattr(_socket, "SO_PEERCRED"):
        return _peer_linux
    return _peer_bsd if sys.platform == "darwin" else None


peer_of: Final = _peer()
"""Gives the effective user of who is connected; None where the system does not tell."""


def _identity(listener: Any) -> tuple[int, int] | None:
    try:
        found = os.fstat(listener.fileno())
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _end(connected: Any) -> bool:
    """End both directions of a socket, whoever else has it open; returns whether that was possible."""
    if connected is None:
        return False
    try:
        connected.shutdown(_socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        pass
    return True


def _is_left(path: str) -> bool:
    """Whether nobody listens to this socket any more."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    finally:
        probe.close()
    return False


def remove(path: str) -> None:
    """Remove a file of ours, if it is there and we may."""
    try:
        os.unlink(path)
    except OSError:
        pass
