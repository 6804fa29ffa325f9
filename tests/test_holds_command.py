"""``otel-connleak holds`` asks real services: a worker of gunicorn, an event loop, one that is stuck."""

import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_connleak.cli.asking import through_socket
from otel_connleak.cli.process import NoAnswer, find
from tests.support.asked import answer, command, holds
from tests.support.launcher import APPS, LAUNCHER, Launched, environment, launch
from tests.support.waiting import wait_until

PROGRAM = APPS / "holding.py"
NOBODY = 65534
OLDER = sys.version_info < (3, 14)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
needs_socket = pytest.mark.skipif(not OLDER, reason="from Python 3.14 on no socket is needed")

type Service = Callable[..., Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short: that of a socket has room for about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="held-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def service(dsn: str, folder: Path) -> Service:
    """Starts the program in one of its ways, with a socket in that folder, and waits until it is ready."""

    @contextmanager
    def started(way: str, **variables: str) -> Iterator[tuple[Launched, int]]:
        env = environment(DSN=dsn, XDG_RUNTIME_DIR=str(folder), OTEL_PYTHON_CONNLEAK_SOCKET="1")
        with launch(PROGRAM, way, env=env | variables) as program:
            yield program, int(program.wait_for_output(r"^ready (?:parent )?(\d+)$")[1])

    return started


def sockets(folder: Path) -> list[str]:
    """The names of the sockets in a folder."""
    return sorted(path.name for path in folder.glob("otel-connleak*/*"))


AS_NOBODY = f"""
import os, sys
from otel_connleak.cli import main
os.setgroups([])
os.setresgid(*[{NOBODY}] * 3)
os.setresuid(*[{NOBODY}] * 3)
sys.exit(main())
"""
"""The command as another user, who may not be able to enter the folder of this environment."""


def short(entry: dict[str, Any]) -> tuple[str, str, int]:
    """Function, what is held, and how many writes are in the transaction."""
    return str(entry["function"]).rpartition(".")[2], entry["resource"], entry["writes"]


TWO = [
    ("list_customers", "connection", 0),
    ("rename_customer", "connection", 1),
    ("rename_customer", "transaction", 1),
]
"""What the program holds in most of its ways."""


def test_table(service: Service) -> None:
    """By function, what each connection does, and its transaction below it; no literal is shown."""
    with service("wait") as (_, pid):
        done = holds(pid)
    lines = [re.sub(r"\d+ ms|\d+\.\d s", "*", line) for line in done.stdout.splitlines()]
    lines = [re.sub(r"  +", "  ", re.sub(r"\b\d{3,}\b|(?<=py:)\d+", "N", line)) for line in lines]

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"process N · Python 3\.\d+\.\d+ · \S+ · held: 2 connections, 1 transaction by 2 functions", lines[0]
    )
    assert lines[1:3] == ['pool "orders": 2 of 3 used', ""]
    assert [line for line in lines[3:] if "MainThread" not in line] == [
        "  HELD  DOING  POOL  SERVER PID  THREAD OR TASK  LAST STATEMENT",
        "__main__.list_customers  holding.py:N  (1 connection)",
        "__main__.rename_customer  holding.py:N  (1 connection)",
        "  *  └ transaction  open, 1 write",
    ]
    assert [line for line in lines if "MainThread" in line] == [
        "  *  connection  idle *  orders  N  MainThread  SELECT … FROM customers",
        "  *  connection  idle *  orders  N  MainThread  UPDATE customers",
    ]


def test_stuck(service: Service) -> None:
    """A process answers whose main thread waits in a lock."""
    with service("stuck") as (_, pid):
        said = answer(pid)
        again = answer(pid)

    assert said["pid"] == pid
    assert [short(entry) for entry in said["holds"]] == TWO
    assert again["holds"][0]["use_time"] > said["holds"][0]["use_time"] > 0


def test_asyncio(service: Service) -> None:
    """Of an event loop the tasks are named; one waits for the database, the other holds and does not."""
    with service("asyncio") as (program, pid):
        said = answer(pid)
        program.say()
        finished = program.finish()
    thinks, reads = (entry for entry in said["holds"] if entry["resource"] == "connection")

    assert (thinks["task"], reads["task"]) == ("a thinker", "a reader")
    assert thinks["busy_for"] is None
    assert thinks["idle_for"] > 0
    assert reads["idle_for"] is None
    assert reads["busy_for"] > 0
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("option", ["--worker-class=sync", "--preload", "--worker-class=gevent"])
def test_gunicorn(option: str, dsn: str, folder: Path) -> None:
    """A worker answers for its own holds, and the master, which has none, for itself."""
    command = [str(LAUNCHER), sys.executable, "-m", "gunicorn", "--workers=1", "--bind=127.0.0.1:0"]
    command += [f"--chdir={APPS}", option, "holding:application"]
    env = environment(DSN=dsn, TMPDIR=str(folder), XDG_RUNTIME_DIR="", OTEL_PYTHON_CONNLEAK_SOCKET="1")
    with Launched(command, env) as server:
        address = server.wait_for_output(r"Listening at: (http://\S+)")[1]
        with urllib.request.urlopen(address, timeout=30) as response:
            worker = json.load(response)["pid"]
        of_worker, of_master = answer(worker), answer(server.process.pid)
        open_now = sockets(folder)
        server.terminate()
        finished = server.finish()

    assert [short(entry) for entry in of_worker["holds"]] == TWO
    assert of_worker["pools"] == [{"name": "orders", "used": 2, "maximum": 3, "waiting": 0}]
    assert of_master["holds"] == []
    assert open_now == sorted([f"{worker}.sock", f"{server.process.pid}.sock"])
    assert finished.returncode == 0
    assert "connleak-socket" not in finished.stderr
    assert "KeyError" not in finished.stderr
    assert sockets(folder) == []


def test_fork(service: Service, folder: Path) -> None:
    """A child opens a socket of its own, and each of the two knows only what it holds itself."""
    with service("fork") as (program, pid):
        child = int(program.wait_for_output(r"^ready child (\d+)$")[1])
        of_parent, of_child = answer(pid), answer(child)
        program.say()
        finished = program.finish()

    assert [short(entry) for entry in of_parent["holds"]] == TWO
    assert [short(entry) for entry in of_child["holds"]] == [
        ("fork", "connection", 0),
        ("fork", "transaction", 0),
    ]
    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr
    assert sockets(folder) == []


def test_uninstrument(service: Service, folder: Path) -> None:
    """With the instrumentation the socket goes, and its file."""
    with service("uninstrument") as (program, pid):
        before = sockets(folder)
        program.say()
        threads = program.wait_for_output(r"^uninstrumented (.*)$")[1]
        after = sockets(folder)
        program.say()
        finished = program.finish()

    assert before == [f"{pid}.sock"]
    assert after == []
    assert "connleak" not in threads
    assert (finished.returncode, finished.stderr) == (0, "")


def test_descriptors_closed_below_it(service: Service) -> None:
    """A program that closes all descriptors, uses their numbers and forks is not disturbed, and answers."""
    with service("daemonize") as (program, pid):
        said = [answer(pid) for _ in range(3)]
        program.say()
        finished = program.finish()

    assert [[short(entry) for entry in each["holds"]] for each in said] == [TWO] * 3
    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr


@needs_socket
def test_off(service: Service, folder: Path) -> None:
    """Without the setting there is no socket and no folder; the error names the setting."""
    with service("wait", OTEL_PYTHON_CONNLEAK_SOCKET="0") as (_, pid):
        done = holds(pid)

    assert list(folder.iterdir()) == []
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: process {pid} (Python 3.{sys.version_info.minor}) has no socket: it is not instrumented, or "
        "was not started with OTEL_PYTHON_CONNLEAK_SOCKET=1; without that only Python 3.14 or later can be "
        "asked\n"
    )


@needs_socket
def test_file_that_is_left(service: Service, folder: Path) -> None:
    """A killed process leaves its file: it is no answer, and the next process removes it."""
    with service("wait") as (program, pid):
        program.terminate(signal.SIGKILL)
        program.process.wait()
        left = sockets(folder)
        assert holds(pid).stderr == f"error: there is no process {pid}\n"
    with service("wait") as (_, other):
        assert sockets(folder) == [f"{other}.sock"]
        left_again = folder / "otel-connleak" / f"{os.getpid()}.sock"
        (folder / "otel-connleak" / f"{other}.sock").rename(left_again)

        # It answers there, but it is not who is asked.
        assert "has no socket" in holds(os.getpid()).stderr

    assert left == [f"{pid}.sock"]


def open_to_others(folder: Path) -> None:
    """A folder that others can look into."""
    folder.mkdir(mode=0o755)


def of_nobody(folder: Path) -> None:
    """A folder that is another user's."""
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)


def symbolic_link(folder: Path) -> None:
    """A link to a folder that would do."""
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


REFUSED = [
    pytest.param(open_to_others, r"is open to other users \(mode 755, not 700\)", id="mode"),
    pytest.param(of_nobody, rf"belongs to user {NOBODY}, not to user 0", id="owner", marks=as_root),
    pytest.param(symbolic_link, r"is no folder", id="link"),
]


@needs_socket
@pytest.mark.parametrize(("prepare", "why"), REFUSED)
def test_folder_that_is_not_private(
    prepare: Callable[[Path], None], why: str, service: Service, folder: Path
) -> None:
    """No socket is opened where others could be; one line says why, and the service runs."""
    place = folder / "otel-connleak"
    prepare(place)
    with service("wait") as (program, pid):
        done = holds(pid)
        program.say()
        finished = program.finish()

    (line,) = [line for line in finished.stderr.splitlines() if "socket" in line]
    assert re.search(rf"no socket to ask this process for its holds: {re.escape(str(place))} {why}$", line)
    assert "has no socket" in done.stderr
    assert list(place.iterdir()) == []
    assert finished.returncode == 0


def test_folder_of_this_user(service: Service, folder: Path) -> None:
    """Folder and socket are for this user only; without a runtime folder the temporary one is taken."""
    gone = str(folder / "no such folder")
    with service("wait", XDG_RUNTIME_DIR=gone, TMPDIR=str(folder)) as (_, pid):
        place = folder / f"otel-connleak-{os.geteuid()}"
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (place, place / f"{pid}.sock")]
        assert [short(entry) for entry in answer(pid)["holds"]] == TWO

    assert modes == [0o700, 0o600]


@as_root
def test_another_user(service: Service) -> None:
    """Who is neither the process's user nor root is not permitted to ask, and is told so."""
    with service("wait") as (_, pid):
        as_nobody = [sys.executable, "-c", AS_NOBODY, "holds", str(pid)]
        done = subprocess.run(as_nobody, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: not permitted to ask process {pid}: it belongs to user 0: ask as that user, or as root\n"
    )


def test_stopped_process(service: Service) -> None:
    """A process that is stopped has a socket and does not answer: the error says so after a while."""
    with service("wait") as (program, pid):
        program.terminate(signal.SIGSTOP)
        status = Path("/proc", str(pid), "status")
        wait_until(lambda: "State:\tT" in status.read_text(), "the stop")
        with pytest.raises(NoAnswer, match=rf"^process {pid} has not answered for 0.2 s: it is stopped, or"):
            through_socket(find(pid), patience=0.2)


def test_no_process() -> None:
    """A number that no process has, and one that no process can have."""
    with subprocess.Popen(["sleep", "0"]) as ended:
        ended.wait()
    for pid in (ended.pid, 1 << 40):
        done = holds(pid)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: there is no process {pid}\n"


def test_ended_process() -> None:
    """A process that has ended, and for whose end nobody has waited yet."""
    with subprocess.Popen(["true"]) as ended:
        status = Path("/proc", str(ended.pid), "status")
        wait_until(lambda: "State:\tZ" in status.read_text(), "the end")
        done = holds(ended.pid)

    assert (done.returncode, done.stderr) == (1, f"error: process {ended.pid} has ended\n")


def test_no_python() -> None:
    """A process that is no Python is not instrumented; the error names its program."""
    with subprocess.Popen(["sleep", "60"]) as other:
        done = holds(other.pid)
        other.kill()

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"error: process {other.pid} is not instrumented: it is no Python, but /\S+\n", done.stderr
    )


@pytest.mark.parametrize("wrong", [["0"], ["-1"], ["worker"], ["1", "--watch", "0"], []])
def test_wrong_usage(wrong: list[str]) -> None:
    """What is no process id, or no number of seconds, is wrong usage."""
    done = holds(*wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: otel-connleak holds")


def test_watch(service: Service) -> None:
    """It asks again and again, a line of JSON each time, and Ctrl-C ends it well."""
    with service("wait") as (_, pid):
        watch = command(pid, "--watch", "0.1", "--json")
        with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            said = [json.loads(watching.stdout.readline()) for _ in range(3)]
            watching.send_signal(signal.SIGINT)
            _, errors = watching.communicate(timeout=30)

    assert said[0]["time"] < said[1]["time"] < said[2]["time"]
    assert (watching.returncode, errors) == (0, "")


def test_watch_until_the_process_ends(service: Service) -> None:
    """When the process has ended, so has the command, with an error."""
    with service("wait") as (program, pid):
        watch = command(pid, "--watch", "0.1")
        with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            first = watching.stdout.readline()
            program.say()
            program.finish()
            rest, errors = watching.communicate(timeout=30)

    assert first.startswith(f"process {pid} ")
    assert "\x1b" not in rest
    assert watching.returncode == 1
    assert errors == f"error: process {pid} has ended\n"


def test_watch_on_a_terminal(service: Service) -> None:
    """On a terminal each table replaces the one before."""
    with service("wait") as (_, pid):
        ours, theirs = pty.openpty()
        watch = command(pid, "--watch", "0.1")
        with subprocess.Popen(
            watch, stdout=theirs, stderr=theirs, env=os.environ | {"COLUMNS": "70"}
        ) as watching:
            os.close(theirs)
            shown = b""
            while shown.count(b"\x1b[2J") < 3:
                shown += os.read(ours, 4096)
            watching.send_signal(signal.SIGINT)
            watching.wait(30)
        os.close(ours)
    (table, *_) = [each for each in shown.decode().split("\x1b[H\x1b[2J\x1b[3J") if each]

    assert watching.returncode == 0
    assert table.startswith(f"process {pid} ")
    assert max(len(line) for line in table.splitlines()) <= 70
