"""The socket on which a process answers, in this process: clients that are slow, rude or somebody else."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_connleak import guard
from otel_connleak.holds_socket import REQUEST, HoldsSocket
from otel_connleak.private_folder import folders
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

NOBODY = 65534
PATIENCE = 0.3
ANSWER = b'{"holds": []}\n'

type Start = Callable[..., HoldsSocket]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime folder of this process, with a short path."""
    path = Path(tempfile.mkdtemp(prefix="held-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Opens a socket that gives a fixed answer, or another one."""
    opened: list[HoldsSocket] = []

    def started(answer: Callable[[], bytes] = lambda: ANSWER, patience: float = PATIENCE) -> HoldsSocket:
        opened.append(HoldsSocket(answer, patience=patience))
        opened[-1].start()
        return opened[-1]

    yield started
    for each in opened:
        each.stop()
    assert list((folder / "otel-connleak").iterdir()) == []


def threads() -> int:
    """How many threads of the operating system this process has."""
    return len(list(Path("/proc/self/task").iterdir()))


def connect(server: HoldsSocket) -> socket.socket:
    """A client of it."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    assert server.path is not None
    client.connect(server.path)
    return client


def said_to(client: socket.socket) -> bytes:
    """All that it gets until the other side ends."""
    said = b""
    try:
        while part := client.recv(1 << 16):
            said += part
    except ConnectionResetError:  # it ended before it has read all that was sent
        pass
    return said


def ask(server: HoldsSocket, request: bytes = REQUEST) -> bytes:
    """Ask as the command does."""
    with connect(server) as client:
        client.sendall(request)
        return said_to(client)


def test_answers(start: Start) -> None:
    """One request has one answer, as often as is asked, in pieces as well."""
    server = start()
    assert [ask(server), ask(server)] == [ANSWER, ANSWER]
    with connect(server) as client:
        for each in (b"ho", b"lds", b"\n"):
            client.sendall(each)
        assert said_to(client) == ANSWER


@pytest.mark.parametrize("request_", [b"drop everything\n", b"GET / HTTP/1.1\r\n\r\n", b"\n", b"x" * 100])
def test_other_requests(request_: bytes, start: Start) -> None:
    """Whatever else is said has an error for an answer, and the next client its own."""
    server = start()
    refusal = b'{"error": "unknown request"}\n'
    # What is longer than a request is not read to its end, and then the refusal may not arrive.
    assert ask(server, request_) in ([refusal] if len(request_) < 64 else [refusal, b""])
    assert ask(server) == ANSWER


def test_client_that_says_nothing(start: Start) -> None:
    """A client that does not ask is sent away after a while; others wait no longer than that."""
    server = start()
    began = time.monotonic()
    with connect(server) as silent, connect(server) as slow:
        slow.sendall(b"hol")
        assert ask(server) == ANSWER
        assert PATIENCE < time.monotonic() - began < 2 * PATIENCE + 5
        assert said_to(silent) == said_to(slow) == b""


def test_client_that_does_not_read(start: Start) -> None:
    """A client that does not take its answer is left after a while."""
    answers = [b"x" * (1 << 24) + b"\n", ANSWER]
    server = start(lambda: answers.pop(0))
    with connect(server) as client:
        client.sendall(REQUEST)
        assert ask(server) == ANSWER
        assert len(said_to(client)) < 1 << 24


def test_clients_that_go(start: Start) -> None:
    """A client that leaves before its answer breaks nothing."""
    server = start()
    for request in (b"", b"hol", REQUEST):
        with connect(server) as client:
            client.sendall(request)
    assert ask(server) == ANSWER
    assert guard.failures() == {}


def test_answer_that_fails(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """A failure of ours is logged, and the next client is answered."""
    guard.forget()
    answers: list[bytes] = [ANSWER]

    def answer() -> bytes:
        if len(answers) < 2:
            answers.append(b"")
            raise RuntimeError("a fault of ours")
        return ANSWER

    server = start(answer)
    with caplog.at_level(logging.ERROR, logger="otel_connleak"):
        assert ask(server) == b""
    assert ask(server) == ANSWER
    assert guard.failures() == {"holds socket": 1}
    guard.forget()


def test_stop_while_a_client_waits(start: Start) -> None:
    """To stop does not wait for a client, ends the thread, removes the file, and may be done twice."""
    before = threads()
    server = start(patience=10.0)
    assert threads() == before + 1
    path = Path(str(server.path))
    with connect(server) as client:
        began = time.monotonic()
        server.stop()
        server.stop()
        assert time.monotonic() - began < 5
        assert said_to(client) == b""
    assert not path.exists()
    assert server.path is None
    wait_until(lambda: threads() == before, "the end of the thread")


def test_off(folder: Path) -> None:
    """What is off opens nothing and starts no thread."""
    server = HoldsSocket(lambda: ANSWER, on=False)
    before = threads()
    server.start()
    server.after_fork()
    assert server.path is None
    assert threads() == before
    server.stop()
    assert list(folder.iterdir()) == []


AS_NOBODY = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
os.setresuid(*[int(sys.argv[2])] * 3)
client.connect(sys.argv[1])
try:
    client.sendall(b"holds\\n")
    print(client.recv(100))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user(start: Start, folder: Path) -> None:
    """Another user has no answer even where somebody has opened folder and socket to all."""
    server = start()
    assert server.path is not None
    for path, mode in ((folder, 0o755), (folder / "otel-connleak", 0o755), (Path(server.path), 0o666)):
        path.chmod(mode)

    def asked_as(user: int) -> str:
        command = [sys.executable, "-c", AS_NOBODY, str(server.path), str(user)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    assert asked_as(NOBODY) == "b''\n"
    assert asked_as(0) == f"{ANSWER!r}\n"


def test_files_of_others_stay(start: Start, folder: Path) -> None:
    """What is left of processes that are gone is removed; what somebody answers on stays."""
    place = folder / "otel-connleak"
    first = start()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    alive = place / f"{ended.pid}.sock"
    Path(str(first.path)).rename(alive)  # as that of a container whose processes we do not see
    left = place / f"{(1 << 30) + 1}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as closed:
        closed.bind(str(left))
    (place / "notes.txt").touch()
    second = start()

    assert sorted(path.name for path in place.iterdir()) == sorted(
        [alive.name, f"{os.getpid()}.sock", "notes.txt"]
    )
    assert ask(second) == ANSWER
    (place / "notes.txt").unlink()
    alive.unlink()


def test_path_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Where no folder will do, one line says why of each, and nothing is left."""
    long = tmp_path / ("a" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(long))
    server = HoldsSocket(lambda: ANSWER)
    with caplog.at_level(logging.WARNING, logger="otel_connleak"):
        server.start()
    server.stop()

    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f"no socket to ask this process for its holds: {tmp_path}/missing/otel-connleak: No such file or "
        f"directory; {long}/otel-connleak-{os.geteuid()}: AF_UNIX path too long"
    )
    assert server.path is None


def test_folders() -> None:
    """The runtime folder comes first, if its path is absolute; then that for temporary files."""
    assert folders({"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": "/scratch"}, 7) == [
        "/run/user/7/otel-connleak",
        "/scratch/otel-connleak-7",
    ]
    assert folders({"XDG_RUNTIME_DIR": "run", "TMPDIR": ""}, 0) == ["/tmp/otel-connleak-0"]


def test_setting(telemetry: Telemetry, folder: Path) -> None:
    """The setting opens it with the instrumentation; without it there is no thread of its own."""
    before = threads()
    with telemetry.instrumented():
        assert list(folder.iterdir()) == []
        assert threads() == before
    with telemetry.instrumented(socket=True):
        assert [path.name for path in (folder / "otel-connleak").iterdir()] == [f"{os.getpid()}.sock"]
    assert list((folder / "otel-connleak").iterdir()) == []
