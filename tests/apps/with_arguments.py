# ruff: noqa: INP001 - a program of its own
"""Instruments by hand, as a user does who cannot use environment variables, then runs a program.

``python with_arguments.py '{"grace": 1}' program.py ...``
"""

import json
import runpy
import sys
from pathlib import Path

from otel_connleak import ConnLeakInstrumentor

if __name__ == "__main__":
    ConnLeakInstrumentor().instrument(**json.loads(sys.argv[1]))
    program = sys.argv[2]
    sys.path[0] = str(Path(program).parent)
    sys.argv = sys.argv[2:]
    runpy.run_path(program, run_name="__main__")
