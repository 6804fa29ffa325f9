"""The truth about the scenarios, from the ``.toml`` files beside them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "scenarios"

GRACE: Final = 0.5
"""The grace of every scenario, in seconds."""
MARGIN: Final = 0.1
"""A report may come so much later than it could, in seconds."""
GRACE_VARIABLE: Final = "OTEL_PYTHON_CONNLEAK_GRACE"
OVERDUE_VARIABLE: Final = "OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER"

_QUIET: Final = 3 * GRACE
"""Seconds that a scenario is watched after its end, when nothing may be reported."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A report that must come.

    Attributes:
        function: to blame; without the module of the theme, or with the module of an application of its own.
        evidence: must be among what is reported.
        certainty: ``possible`` or ``confirmed``.
        after: what must pass between the fact and the report: ``drop`` and ``release`` (nothing), ``grace``,
            ``overdue`` (the threshold), ``exit`` (the fact is the end of the program).
        resource: what leaked.
        fact: which of the scenario's moments (`tests.corpus.stage.Stage.fact`) is the fact.
        recovers: whether the claim must be withdrawn later, with the same id.
    """

    function: str
    evidence: tuple[str, ...]
    certainty: str
    after: str
    resource: str = "connection"
    fact: str = "fact"
    recovers: bool = False

    def __post_init__(self) -> None:
        if self.after not in ("drop", "release", "grace", "overdue", "exit"):
            raise ValueError(f"after = {self.after!r}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario and the truth about it.

    Attributes:
        theme: the name of its module.
        name: the name of its function.
        says: one sentence on what happens.
        leaks: every report that must come; empty for what only looks like a leak.
        env: settings of this scenario, as environment variables.
        spared: functions that the line at exit must list as still able to release.
    """

    theme: str
    name: str
    says: str
    leaks: tuple[Expected, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    spared: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``theme.name``."""
        return f"{self.theme}.{self.name}"

    @property
    def is_leak(self) -> bool:
        """Whether anything must be reported."""
        return bool(self.leaks)

    def delay(self, expected: Expected) -> float:
        """Seconds that must pass from the fact to the report."""
        waits = {
            "drop": 0.0,
            "release": 0.0,
            "grace": float(self.env.get(GRACE_VARIABLE, GRACE)),
            "overdue": float(self.env.get(OVERDUE_VARIABLE, 30)),
            "exit": 0.0,
        }
        return waits[expected.after]

    @property
    def settle(self) -> float:
        """Seconds for which the process goes on after the scenario, to see what comes and what does not."""
        # What comes twice comes soon.
        return max((self.delay(each) + 4 * MARGIN for each in self.leaks), default=_QUIET)


def load(folder: Path = FOLDER) -> list[Scenario]:
    """All scenarios, by theme in the order of their files.

    Raises:
        ValueError: a file does not say what it should.
    """
    return [
        _scenario(path.stem, name, entry)
        for path in sorted(folder.glob("*.toml"))
        for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
    ]


def _scenario(theme: str, name: str, entry: Mapping[str, Any]) -> Scenario:
    try:
        leaks = tuple(
            Expected(**{key: _frozen(value) for key, value in leak.items()}) for leak in entry["leaks"]
        )
        known = {key: _frozen(value) for key, value in entry.items() if key != "leaks"}
        return Scenario(theme, name, leaks=leaks, **known)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{theme}.toml, [{name}]: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else value
