"""The command ``otel-connleak`` (L5)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from importlib.util import find_spec

from otel_connleak.adapters import ENTRY_POINTS
from otel_connleak.cli import holds
from otel_connleak.config import Patterns, Settings, accepted_form, load, variable
from otel_connleak.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    It is 0, or 1 if a setting was refused or a process cannot be asked, 2 for wrong usage.
    """
    parser = argparse.ArgumentParser(
        prog="otel-connleak", description="Which repository function did not give its connection back?"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("settings", help="show every setting, its variable and its value here")
    commands.add_parser("adapters", help="show the libraries that are covered, and which are installed")
    holds.arguments(commands.add_parser("holds", help=holds.HELP))
    given = parser.parse_args(arguments)
    if given.command == "holds":
        return holds.run(given)
    return {"settings": _settings, "adapters": _adapters}[given.command]()


def _settings() -> int:
    settings, refused = load()
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        if isinstance(value, Patterns | frozenset):
            value = ",".join(sorted(value)) or "(none)"
        print(f"{variable(setting.name)} = {value}\n    {accepted_form(setting.name)}")
    for message in refused:
        print(f"error: {message}", file=sys.stderr)
    return 1 if refused else 0


def _adapters() -> int:
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            module = entry_point.load().module
            state = "installed" if find_spec(module) is not None else "not installed"
        except Exception as error:
            state = f"cannot be loaded: {type(error).__name__}: {error}"
        print(f"{entry_point.name:<16} {state}")
    return 0
