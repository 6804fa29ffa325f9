# ruff: noqa: INP001 - a program of its own
"""What ``opentelemetry-instrument`` does where neither SDK nor distro is installed, then runs a program.

``python without_sdk.py program.py ...``, with OTEL_PYTHON_DISTRO and OTEL_PYTHON_CONFIGURATOR set to "none":
what is installed here registers itself under both.
"""

import importlib.abc
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ABSENT = ("opentelemetry.sdk", "opentelemetry.distro")


class NotInstalled(importlib.abc.MetaPathFinder):
    """Behaves as if the packages in `ABSENT` were not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse what is absent; leave the rest to the other finders."""
        if fullname.startswith(ABSENT):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, NotInstalled())
    from opentelemetry.instrumentation.auto_instrumentation import initialize

    initialize()
    program = sys.argv[1]
    sys.path[0] = str(Path(program).parent)
    sys.argv = sys.argv[1:]
    runpy.run_path(program, run_name="__main__")
    assert not any(name.startswith(ABSENT) for name in sys.modules), "the SDK is there after all"
