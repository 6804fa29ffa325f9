"""The soak test itself works: a few seconds of it, as `make soak` runs it for minutes."""

import subprocess
import sys
from pathlib import Path


def test_a_few_seconds() -> None:
    """Over threads and tasks every leak and every lost write is reported once, and nothing is left open."""
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.05"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all as it must be\n")
