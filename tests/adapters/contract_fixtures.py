"""What all parts of the contract have in common: fixtures, and ways to look at a repository method."""

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.adapters.library import Library

type Run = Callable[..., Any]
"""Calls a method of the repository and gives its result; runs it in an event loop if need be."""


def line_of_acquire(method: Any) -> int:
    """The line in which a method of the repository acquires."""
    lines, first = inspect.getsourcelines(method)
    return next(first + number for number, line in enumerate(lines) if ".acquire(" in line)


def outcome(run: Run, method: Any) -> tuple[type, str]:
    """What comes out of a method: the type and text of its result or exception, without addresses."""
    try:
        result = run(method)
    except Exception as error:
        result = error
    return type(result), re.sub(r"0x[0-9a-f]+", "0x", str(result))


def shape(connection: Any) -> tuple[type, set[str], int]:
    """What an application can see of a connection: its type, its attributes, how often it is referred to."""
    return type(connection), set(getattr(connection, "__dict__", ())), sys.getrefcount(connection)


class ContractFixtures:
    """The fixtures of the contract; `SyncContract` and `AsyncContract` fill them in."""

    @pytest.fixture
    def library(self) -> Iterator[Library]:
        """The library under test; each subclass has its own."""
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> Run:
        """How a method is run."""
        raise NotImplementedError

    @pytest.fixture
    def customers(self, library: Library) -> Any:
        """The repository."""
        raise NotImplementedError

    @pytest.fixture
    def log(self, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
        """A function that gives all our log lines so far."""
        caplog.set_level(logging.INFO, "otel_connleak")
        return lambda: "\n".join(
            record.getMessage() for record in caplog.records if record.name == "otel_connleak"
        )
