"""The settings, from keyword arguments and environment variables, as one frozen object (L0).

A value that does not parse is refused with one message that names the setting and what it accepts; the
default is used in its place, so that the host application always starts (DESIGN section 5).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Final

from otel_connleak.hold import Evidence

PREFIX: Final = "OTEL_PYTHON_CONNLEAK_"
"""What every environment variable of ours begins with."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ON: Final = frozenset({"1", "on", "true", "yes"})
_OFF: Final = frozenset({"0", "off", "false", "no"})
_SECONDS_FORM: Final = "a number of seconds greater than zero, for example 30, 0.5, 500ms or 5m"
_PATTERNS_FORM: Final = "names or patterns separated by commas, for example shop.repositories.*"


class Patterns(tuple[str, ...]):
    """Shell-style patterns for module or function names, as of `fnmatch`; immutable."""

    __slots__ = ()

    def match(self, *names: str) -> bool:
        """Whether any of the patterns fits any of the names; case counts."""
        return any(fnmatchcase(name, pattern) for pattern in self for name in names)


_NO_PATTERNS: Final = Patterns()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can set. Durations are in seconds.

    Attributes:
        overdue_after: a hold that is held and idle for longer is ``overdue``.
        grace: a hold released within this time after the first evidence is never reported.
        repository: modules of the repository layer, ``shop.repositories.*``; the nearest frame in it owns.
        library_modules: further modules that are never the owner, with what is below them.
        long_lived: functions whose holds never become overdue.
        ignore: functions whose holds are never reported.
        spans: which holds get a span: ``all``, ``slow`` or ``none``.
        slow_after: with ``spans=slow``, only holds that took longer get one.
        statements: what a report shows of the last statement: ``off``, ``summary`` or ``full``.
        evidence: the kinds of evidence that are looked for.
        idle_after: a hold that was released and sat idle for longer was held unnecessarily, and is reported;
            None: none is.
        socket: whether a Unix socket is opened, on which ``otel-connleak holds`` asks this process.
    """

    overdue_after: float = 30.0
    grace: float = 5.0
    repository: Patterns = _NO_PATTERNS
    library_modules: Patterns = _NO_PATTERNS
    long_lived: Patterns = _NO_PATTERNS
    ignore: Patterns = _NO_PATTERNS
    spans: str = "all"
    slow_after: float = 1.0
    statements: str = "summary"
    evidence: frozenset[Evidence] = frozenset(Evidence)
    idle_after: float | None = None
    socket: bool = False


def _seconds(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        text = value.strip().lower()
        for unit in ("ms", "s", "m", "h"):
            if text.endswith(unit):
                return _seconds(float(text.removesuffix(unit)) * _UNITS[unit])
        value = text
    seconds = float(value)
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError
    return seconds


def _seconds_or_off(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() == "off":
        return None
    return _seconds(value)


def _switch(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in _ON | _OFF:
        raise ValueError
    return word in _ON


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split(",")
    elif not isinstance(value, Iterable):
        raise ValueError
    words = [word.strip() for word in value]
    return [word for word in words if word]


def _patterns(value: Any) -> Patterns:
    words = _words(value)
    if any(set(word) & set(" \t\n()'\"") for word in words):
        raise ValueError
    return Patterns(words)


def _choice(*accepted: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        word = str(value).strip().lower()
        if word not in accepted:
            raise ValueError
        return word

    return parse


def _evidence(value: Any) -> frozenset[Evidence]:
    words = [word.lower() for word in _words(value)]
    if words == ["all"]:
        return frozenset(Evidence)
    if not words:
        raise ValueError
    return frozenset(Evidence(word) for word in words)


_PARSERS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "overdue_after": (_seconds, _SECONDS_FORM),
    "grace": (_seconds, _SECONDS_FORM),
    "repository": (_patterns, _PATTERNS_FORM),
    "library_modules": (_patterns, _PATTERNS_FORM),
    "long_lived": (_patterns, _PATTERNS_FORM),
    "ignore": (_patterns, _PATTERNS_FORM),
    "spans": (_choice("all", "slow", "none"), "one of all, slow, none"),
    "slow_after": (_seconds, _SECONDS_FORM),
    "statements": (_choice("off", "summary", "full"), "one of off, summary, full"),
    "evidence": (_evidence, "all, or one or more of " + ", ".join(Evidence) + ", separated by commas"),
    "idle_after": (_seconds_or_off, f"off, or {_SECONDS_FORM}"),
    "socket": (_switch, "1 or on, 0 or off"),
}


def variable(setting: str) -> str:
    """The environment variable of a setting, for example ``OTEL_PYTHON_CONNLEAK_GRACE`` of ``grace``."""
    return PREFIX + setting.upper()


def accepted_form(setting: str) -> str:
    """What a setting accepts, as half a sentence for people. Raises `KeyError` for an unknown setting."""
    return _PARSERS[setting][1]


def load(
    arguments: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, list[str]]:
    """Read the settings; a keyword argument goes before its environment variable.

    Args:
        arguments: values by setting name; `None` as a value means "not given".
        environ: the environment to read, by default the process's own.

    Returns:
        The settings, and one message for each value that was refused and replaced by its default.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    values: dict[str, Any] = {}
    refused: list[str] = []
    for setting in fields(Settings):
        name = setting.name
        if name in given:
            label, raw = f"argument {name}", given[name]
        elif environ.get(variable(name), "").strip():
            label, raw = variable(name), environ[variable(name)]
        else:
            continue
        parse, form = _PARSERS[name]
        try:
            values[name] = parse(raw)
        except (ValueError, TypeError, OverflowError):
            refused.append(f"{label}={raw!r} is not valid: it takes {form}; the default is used")
    settings = Settings(**values)
    known = {variable(setting.name) for setting in fields(Settings)}
    refused += [
        f"{name} is not a setting of otel-connleak; the settings are " + ", ".join(sorted(known))
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]
    refused += [
        f"argument {name} is not a setting of otel-connleak" for name in sorted(set(given) - set(_PARSERS))
    ]
    return settings, refused
