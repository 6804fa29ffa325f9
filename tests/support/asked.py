"""Runs ``otel-connleak holds`` as a user does, in a process of its own."""

import json
import subprocess
import sys
from typing import Any

COMMAND = "import sys; from otel_connleak.cli import main; sys.exit(main())"


def command(*arguments: object) -> list[str]:
    """The command line of ``otel-connleak holds`` in this environment."""
    return [sys.executable, "-c", COMMAND, "holds", *map(str, arguments)]


def holds(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)


def answer(pid: int) -> dict[str, Any]:
    """What a process answers, as a script gets it."""
    done = holds(pid, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
