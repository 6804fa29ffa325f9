"""The command ``otel-connleak holds``: who holds what now in a running process (L5)."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from typing import Any, Final

from otel_connleak.cli.asking import through_socket
from otel_connleak.cli.holds_table import WIDTH, table
from otel_connleak.cli.process import NoAnswer, Target, find
from otel_connleak.cli.remote import SOCKET, by_remote_exec

HELP: Final = "show who holds what now in a running process, since when, doing what"
_EVERY: Final = 2.0
_ENDS_WITHIN: Final = 3.0
_PAUSE: Final = 0.05
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    parser.description = (
        "Show who holds what now in a running process of this host. A service on Python 3.12 or 3.13 must "
        f"have been started with {SOCKET}; on 3.14 or later nothing needs to be prepared."
    )
    parser.add_argument("pid", type=_pid, metavar="PID", help="number of the process")
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=_EVERY,
        metavar="SECONDS",
        help=f"ask again and again, every {_EVERY:g} seconds or as often as is said, until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON for each answer")


def run(command: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0, or 1 if the process cannot be asked or does not answer."""
    answered = False
    try:
        while True:
            _show(answer_of(command.pid), command.json, watching=command.watch is not None)
            answered = True
            if command.watch is None:
                return 0
            time.sleep(command.watch)
    except NoAnswer as problem:
        # One that ends closes its socket first.
        ended = answered and _ends(command.pid)
        print(f"error: {f'process {command.pid} has ended' if ended else problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever reads has seen enough
        sys.stderr.close()
        return 0


def answer_of(pid: int) -> dict[str, Any]:
    """What a process answers.

    Raises:
        NoAnswer: it cannot be asked, or does not answer.
    """
    target = find(pid)
    said = through_socket(target)
    if said is None:
        said = by_remote_exec(target)
    return _understood(target, said)


def _ends(pid: int) -> bool:
    """Whether a process ends within a short time."""
    deadline = time.monotonic() + _ENDS_WITHIN
    while time.monotonic() < deadline:
        try:
            find(pid)
        except NoAnswer:
            return True
        time.sleep(_PAUSE)
    return False


def _understood(target: Target, said: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError:
        raise NoAnswer(f"process {target.pid} has not answered in JSON") from None
    error = answer.get("error")
    if error == "not instrumented":
        raise NoAnswer(f"process {target.pid} ({target.python}) is not instrumented with otel-connleak")
    if error is not None:
        raise NoAnswer(f"process {target.pid} has another version of otel-connleak, and did not answer")
    return answer | {"pid": target.pid}  # in a container it has another number


def _show(answer: dict[str, Any], as_json: bool, *, watching: bool) -> None:
    if as_json:
        print(json.dumps(answer), flush=True)
        return
    if not sys.stdout.isatty():
        print("\n".join([*table(answer), *([""] if watching else [])]), flush=True)
        return
    size = shutil.get_terminal_size((WIDTH, 40))
    lines = table(answer, max(40, size.columns))
    if watching and len(lines) >= size.lines:
        more = len(lines) - size.lines + 2
        lines = [*lines[: size.lines - 2], f"… {more} more lines"]
    print((_CLEAR if watching else "") + "\n".join(lines), flush=True)


def _pid(text: str) -> int:
    pid = int(text)
    if pid <= 0:
        raise ValueError
    return pid


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("a number of seconds, from 0.1")
    return seconds
