"""What compares the libraries' own test suites without and with us (``tests/upstream``) finds differences."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.upstream.outcomes import Comparison, Seen, differences, lasting, read, table

GOOD = Comparison("lib", {"a": "passed"}, {"a": "passed"}, {}, {}, {}, Seen(holds=1), (1.0, 2.0))


def test_differences() -> None:
    """A test differs if its outcome does, or if it ran only once."""
    without = {"a": "passed", "b": "failed", "c": "passed", "d": "skipped"}
    with_us = {"a": "passed", "b": "failed", "c": "failed", "e": "passed"}

    assert differences(without, with_us) == {
        "c": ("passed", "failed"),
        "d": ("skipped", "absent"),
        "e": ("absent", "passed"),
    }


@pytest.mark.parametrize(
    ("without", "with_us", "lasts"),
    [
        (["passed", "passed"], ["failed", "failed"], True),
        (["passed", "passed"], ["passed", "failed"], True),
        (["passed", "passed"], ["passed", "passed"], False),
        (["failed", "passed"], ["failed", "failed"], False),
    ],
)
def test_further_rounds(without: list[str], with_us: list[str], lasts: bool) -> None:
    """A test that fails without us now and then is no fault of ours; one that fails only with us is."""
    found = {"a": ("passed", "failed")}
    rounds = [({"a": before}, {"a": after}) for before, after in zip(without, with_us, strict=True)]

    assert lasting(found, rounds) == (found if lasts else {})


def test_a_run_that_died(tmp_path: Path) -> None:
    """A run that wrote nothing has no outcomes: all tests differ."""
    assert differences({"a": "passed"}, read(tmp_path / "outcomes.json")) == {"a": ("passed", "absent")}


def test_complaints() -> None:
    """A comparison fails if a test differs, nothing was tested or seen, or an error of ours was logged."""
    assert GOOD.complaints == []
    assert replace(GOOD, different={"a": ("passed", "failed")}).complaints == [
        "a: passed without, failed with us"
    ]
    assert len(replace(GOOD, without={"a": "failed"}).complaints) == 1
    assert replace(GOOD, seen=Seen()).complaints == ["no hold was seen: we were not there"]
    assert replace(GOOD, seen=Seen(1, [], ["failed in a hook"])).complaints == ["failed in a hook"]


def test_seen(tmp_path: Path) -> None:
    """What the processes of a run have seen is added up."""
    for number in range(2):
        said = {"holds": 3, "leaks": ["f"], "errors": []}
        (tmp_path / f"{number}.json").write_text(json.dumps(said), encoding="utf-8")

    assert Seen.read(tmp_path) == Seen(6, ["f", "f"], [])


def test_table() -> None:
    """Each suite has a row, under two lines of headings."""
    row = list(table([GOOD]))[2].split()

    assert row == ["lib", "1", "1/0/0", "1/0/0", "0", "0", "1", "0", "1", "+", "2"]
