"""The corpus and its judge: the truth is complete, and a report that is not as it should be is a fault."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.corpus.theatre import Theatre
from tests.corpus.truth import FOLDER, GRACE, MARGIN, Expected, Scenario, load
from tests.corpus.verdict import Played, Reported, Verdict, judge

SCENARIOS = load()
LATE = 100.0 + GRACE + MARGIN
"""When a report of `LEAK` comes too late."""
LEAK = Scenario(
    "exceptions",
    "query_raises",
    "A leak.",
    (Expected("Repository.find", ("function_exited",), "possible", "grace"),),
)
NO_LEAK = replace(LEAK, leaks=())
REPORT = Reported(
    "0a1b2c-1",
    "tests.corpus.scenarios.exceptions.Repository.find",
    ("task_ended", "function_exited"),
    "possible",
    "connection",
    100.0 + GRACE + 0.05,
)
PLAYED = Played((REPORT,), (), {"fact": 100.0, "exit": 102.0}, "", 0)
RECOVERING = replace(LEAK, leaks=(replace(LEAK.leaks[0], recovers=True),))


def but(**changes: Any) -> Played:
    """The scenario as played, but for something in its report."""
    return replace(PLAYED, reports=(replace(REPORT, **changes),))


def test_size() -> None:
    """At least eighty scenarios, half of which or more only look like leaks; each kind of evidence occurs."""
    evidence = {kind for each in SCENARIOS for leak in each.leaks for kind in leak.evidence}

    assert len(SCENARIOS) >= 80
    assert sum(not each.is_leak for each in SCENARIOS) >= len(SCENARIOS) / 2
    assert evidence == {
        "dropped",
        "thread_ended",
        "task_ended",
        "trace_ended",
        "function_exited",
        "overdue",
        "process_exited",
        "discarded",
    }


def functions_of(theme: str) -> Iterator[str]:
    """The functions of a theme that take a stage, and return nothing."""
    module = importlib.import_module(f"tests.corpus.scenarios.{theme}")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        signature = inspect.signature(function)
        plays = list(signature.parameters) == ["stage"] and signature.return_annotation == "None"
        if function.__module__ == module.__name__ and plays:
            yield name


@pytest.mark.parametrize("theme", sorted({each.theme for each in SCENARIOS}))
def test_every_scenario_has_its_truth(theme: str) -> None:
    """What can be played is described, what is described can be played, and both in a sentence."""
    described = {each.name: each.says for each in SCENARIOS if each.theme == theme}
    module = importlib.import_module(f"tests.corpus.scenarios.{theme}")

    assert set(functions_of(theme)) == set(described)
    assert all(says.endswith(".") for says in described.values())
    assert all(inspect.getdoc(getattr(module, name)) for name in described)


def test_every_theme_is_described() -> None:
    """A module without its truth is a helper of others, with nothing to play."""
    themes = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    for helper in themes - {each.theme for each in SCENARIOS}:
        assert list(functions_of(helper)) == []


def test_as_it_should_be() -> None:
    """A report of the right function, with the evidence, in time, has no fault."""
    verdict = judge(LEAK, PLAYED)

    assert verdict.faults == []
    assert (verdict.found, verdict.missed, verdict.false_alarms, verdict.blamed_wrong) == (1, 0, 0, 0)
    assert [(kind, round(late, 3)) for kind, late in verdict.times] == [("function_exited", 0.05)]
    assert judge(NO_LEAK, replace(PLAYED, reports=())).faults == []


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    """Found, missed, false alarms, blamed wrong."""
    return verdict.found, verdict.missed, verdict.false_alarms, verdict.blamed_wrong


@pytest.mark.parametrize(
    ("scenario", "played", "expected"),
    [
        pytest.param(LEAK, replace(PLAYED, reports=()), (0, 1, 0, 0), id="missed"),
        pytest.param(NO_LEAK, PLAYED, (0, 0, 1, 0), id="false alarm"),
        pytest.param(LEAK, replace(PLAYED, reports=(REPORT, REPORT)), (1, 0, 1, 0), id="reported twice"),
        pytest.param(LEAK, but(function="x.helper"), (1, 0, 0, 1), id="blame"),
    ],
)
def test_counted(scenario: Scenario, played: Played, expected: tuple[int, int, int, int]) -> None:
    """What is missed, said too much, or blamed wrong is counted, and is a fault."""
    verdict = judge(scenario, played)

    assert counts(verdict) == expected
    assert verdict.faults != []


@pytest.mark.parametrize(
    ("scenario", "played"),
    [
        pytest.param(LEAK, but(evidence=("overdue",)), id="other evidence"),
        pytest.param(
            LEAK, replace(PLAYED, reports=(replace(REPORT, certainty="confirmed"),)), id="certainty"
        ),
        pytest.param(LEAK, replace(PLAYED, reports=(replace(REPORT, resource="cursor"),)), id="resource"),
        pytest.param(LEAK, replace(PLAYED, reports=(replace(REPORT, seconds=100.61),)), id="late"),
        pytest.param(LEAK, replace(PLAYED, facts={}), id="no fact"),
        pytest.param(LEAK, replace(PLAYED, recovered=(REPORT.id,)), id="withdrawn"),
        pytest.param(LEAK, replace(PLAYED, returncode=1), id="exit code"),
        pytest.param(LEAK, replace(PLAYED, stderr="Traceback (most recent call last):"), id="traceback"),
        pytest.param(replace(LEAK, spared=("Repository.keep",)), PLAYED, id="not listed at exit"),
        pytest.param(
            replace(LEAK, leaks=(replace(LEAK.leaks[0], recovers=True),)), PLAYED, id="not withdrawn"
        ),
    ],
)
def test_fault(scenario: Scenario, played: Played) -> None:
    """Found and blamed well, and yet not as it should be."""
    verdict = judge(scenario, played)

    assert counts(verdict) == (1, 0, 0, 0)
    assert len(verdict.faults) == 1
    assert verdict.only_late == (played.reports[0].seconds > LATE)


class Repeating(Theatre):
    """Plays what it is told to, one after the other, instead of processes."""

    def __init__(self, receiver: OtlpReceiver, *plays: Played) -> None:
        super().__init__("", receiver)
        self._plays = list(plays)

    def play(self, scenario: Scenario) -> Played:
        """The next of them."""
        return self._plays.pop(0)


def test_late_once(receiver: OtlpReceiver) -> None:
    """A report that is in time when its scenario is played alone was late by the machine's doing."""
    (verdict,) = Repeating(receiver, but(seconds=LATE + 1), PLAYED).play_all([LEAK])

    assert verdict.faults == []


def test_late_always(receiver: OtlpReceiver) -> None:
    """A report that is late also when its scenario is played alone, again and again, is a fault."""
    (verdict,) = Repeating(receiver, *[but(seconds=LATE + 1)] * 3).play_all([LEAK])

    assert verdict.only_late


def test_not_played_again(receiver: OtlpReceiver) -> None:
    """What is at fault in another way, too, is not tried again until it happens to pass."""
    (verdict,) = Repeating(receiver, but(seconds=LATE + 1, function="x.helper")).play_all([LEAK])

    assert verdict.blamed_wrong == 1
    assert not verdict.only_late


@pytest.mark.parametrize(
    "truth",
    [
        "[query_raises]\nsays = 'It.'",
        "[query_raises]\nsays = 'It.'\nleaks = [{function = 'f'}]",
        "[query_raises]\nsays = 'It.'\nleaks = []\nmistyped = true",
        "[a]\nsays='It.'\n[[a.leaks]]\nfunction='f'\nevidence=['dropped']\ncertainty='possible'\nafter='soon'",
    ],
)
def test_incomplete_truth_is_refused(truth: str, tmp_path: Path) -> None:
    """A truth that lacks something, or says something unknown, is an error that names the scenario."""
    (tmp_path / "theme.toml").write_text(truth, encoding="utf-8")
    with pytest.raises(ValueError, match=r"theme\.toml, \[(query_raises|a)\]: "):
        load(tmp_path)
