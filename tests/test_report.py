"""The report for people: whole texts, every branch, and when a line is written at all."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_connleak.claim import Leak, StackFrame
from otel_connleak.connection import Facts, Kind, PoolFigures, Transaction
from otel_connleak.hold import Certainty, Evidence
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.report import LeakLog, leak_dict, leak_text, recovered_text, short_path, spared_text
from tests.leaking import lose
from tests.support import toy
from tests.support.core import Core

FOLDER = Path("/srv/shop")
SINCE = time.mktime((2026, 11, 22, 10, 2, 11, 0, 0, -1))


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leak]:
    """The leak of DESIGN section 5, in an application that is installed in a folder of its own."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    core = Core()
    hold = lose(core.pool)
    hold.released = hold.acquired + 42.0
    yield Leak(
        id="7c1f09-00000001",
        fingerprint="7c1f09",
        function="shop.repositories.CustomerRepository.list_customers",
        short="CustomerRepository.list_customers",
        file=str(FOLDER / "shop" / "repositories.py"),
        line=41,
        kind=Kind.CONNECTION,
        evidence=(Evidence.FUNCTION_EXITED,),
        certainty=Certainty.POSSIBLE,
        pool="orders",
        figures=PoolFigures(used=5, maximum=5, waiting=3),
        hint="use `with pool.connection() as conn:` so that it is returned on every path",
        facts=Facts("postgresql", "shop", "db", 5432, 4242),
        thread="MainThread",
        task=None,
        trace="4bf92f3577b34da6a3ce929d0e0e4736",
        use_time=30.2,
        idle_time=30.1,
        calls=3,
        last_call_age=30.1,
        transaction=Transaction.OPEN,
        writes=1,
        statement="SELECT … FROM customers",
        in_full=False,
        frames=(
            StackFrame("CustomerRepository.list_customers", str(FOLDER / "shop" / "repositories.py"), 41),
            StackFrame("get_customers", str(FOLDER / "shop" / "api.py"), 88),
        ),
        detected=SINCE + 60,
        occurrence=12,
        since=SINCE,
        hold=hold,
    )
    toy.forget()


def test_whole_text(leak: Leak) -> None:
    """Everything that is known, in the words of the design."""
    assert leak_text(leak).split("\n") == [
        (
            "connection leak (possible, function_exited) [7c1f09]: "
            "shop.repositories.CustomerRepository.list_customers  shop/repositories.py:41"
        ),
        (
            '  held 30.2 s, idle 30.1 s · transaction open, 1 write · pool "orders" 5/5 used, 3 waiting · '
            "server pid 4242 · trace 4bf92f3577b34da6a3ce929d0e0e4736"
        ),
        "  last statement 30.1 s ago: SELECT … FROM customers",
        "  acquired at  shop/repositories.py:41 list_customers ← shop/api.py:88 get_customers",
        "  hint: use `with pool.connection() as conn:` so that it is returned on every path",
        "  seen 12 times since 10:02:11; further repeats of [7c1f09] are counted, not logged",
    ]


def test_least_text(leak: Leak) -> None:
    """What is not known is left out, and no line is empty."""
    least = replace(
        leak,
        evidence=(Evidence.DROPPED, Evidence.THREAD_ENDED),
        certainty=Certainty.CONFIRMED,
        pool=None,
        figures=None,
        hint="",
        facts=Facts(),
        trace=None,
        use_time=0.0004,
        idle_time=0.0004,
        calls=0,
        last_call_age=None,
        transaction=Transaction.NONE,
        statement=None,
        frames=(),
        occurrence=1,
    )
    assert leak_text(least).split("\n") == [
        (
            "connection leak (confirmed, dropped, thread_ended) [7c1f09]: "
            "shop.repositories.CustomerRepository.list_customers  shop/repositories.py:41"
        ),
        "  held 0 ms, idle 0 ms",
        "  hint: use `with` or `try … finally: connection.close()` so that it is closed on every path",
        "  further repeats of [7c1f09] are counted, not logged",
    ]


FACTS = [
    ({"transaction": Transaction.ABORTED}, "held 30.2 s, idle 30.1 s · transaction open, aborted · pool"),
    ({"transaction": Transaction.ACTIVE}, "held 30.2 s, idle 30.1 s · a statement is running · pool"),
    ({"transaction": Transaction.UNKNOWN}, "held 30.2 s, idle 30.1 s · pool"),
    ({"figures": PoolFigures(2, 5, 0)}, '· pool "orders" 2/5 used ·'),
    ({"figures": PoolFigures(2)}, '· pool "orders" 2 used ·'),
    ({"figures": None}, '· direct connection to database "shop" ·'),
    ({"thread": "worker-1"}, "· server pid 4242 · thread worker-1 · trace"),
    ({"thread": "worker-1", "task": "Task-7"}, "· server pid 4242 · task Task-7 · trace"),
    ({"use_time": 0.25, "idle_time": 0.0}, "held 250 ms, idle 0 ms ·"),
    ({"use_time": 36_000.0, "idle_time": 9_999.0}, "held 10.0 h, idle 9999.0 s ·"),
]


@pytest.mark.parametrize(("changes", "part"), FACTS)
def test_facts(leak: Leak, changes: dict[str, object], part: str) -> None:
    """Each branch of the second line."""
    assert part in leak_text(replace(leak, **changes)).split("\n")[1]  # type: ignore[arg-type] # of any field


def test_statement_needs_a_call(leak: Leak) -> None:
    """A statement whose driver call has not ended is not the last one yet."""
    assert "last statement" not in leak_text(replace(leak, last_call_age=None))


def test_recovered_text(leak: Leak) -> None:
    """One line that withdraws the claim by its fingerprint."""
    assert recovered_text(leak) == (
        "recovered [7c1f09]: shop.repositories.CustomerRepository.list_customers gave the connection back "
        "after 42.0 s, late; not a leak  shop/repositories.py:41"
    )


def test_spared_text(leak: Leak) -> None:
    """One line for everything that was held at exit and is no leak, most holds first."""
    core = Core()
    holds = [leak.hold, lose(core.pool), lose(core.pool)]
    holds[0].site.function = "a.b"
    assert spared_text(holds) == (
        "at exit 3 still held by code that could release them, no leaks: tests.leaking.lose (2), a.b (1)"
    )


def test_dict(leak: Leak) -> None:
    """The same as plain values."""
    assert leak_dict(leak) == {
        "id": "7c1f09-00000001",
        "fingerprint": "7c1f09",
        "function": "shop.repositories.CustomerRepository.list_customers",
        "file": "/srv/shop/shop/repositories.py",
        "line": 41,
        "resource": "connection",
        "evidence": ["function_exited"],
        "certainty": "possible",
        "pool": "orders",
        "server_pid": 4242,
        "thread": "MainThread",
        "task": None,
        "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
        "use_time": 30.2,
        "idle_time": 30.1,
        "transaction": "open",
        "writes": 1,
        "statement": "SELECT … FROM customers",
        "detected": SINCE + 60,
        "occurrence": 12,
    }
    assert all(type(value) is not Evidence for value in leak_dict(leak)["evidence"])


def test_first_tenth_hundredth(leak: Leak, caplog: pytest.LogCaptureFixture) -> None:
    """Repeats are counted, not logged, except each time that their number has a digit more."""
    log = LeakLog()
    logged, withdrawn = [], []
    for occurrence in range(1, 1_101):
        caplog.clear()
        log.leak(replace(leak, occurrence=occurrence))
        logged += [occurrence] * len(caplog.records)
        caplog.clear()
        log.recovered(replace(leak, occurrence=occurrence))
        withdrawn += [occurrence] * len(caplog.records)

    assert logged == [1, 10, 100, 1_000]
    assert withdrawn == logged


def test_levels(leak: Leak, caplog: pytest.LogCaptureFixture) -> None:
    """Leaks and recoveries are warnings of our logger; what was spared at exit is information, if any."""
    caplog.set_level(logging.INFO, INSTRUMENTATION)
    log = LeakLog()
    log.leak(replace(leak, occurrence=1))
    log.recovered(replace(leak, occurrence=1))
    log.spared([leak.hold])
    log.spared([])

    assert [(record.name, record.levelname) for record in caplog.records] == [
        (INSTRUMENTATION, "WARNING"),
        (INSTRUMENTATION, "WARNING"),
        (INSTRUMENTATION, "INFO"),
    ]


def test_short_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative to the longest folder of working directory and import path; else as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "src", "/srv", "/srv/shop", "/srv/shop/sub/"])

    assert short_path(str(tmp_path / "app.py")) == "app.py"
    assert short_path(str(tmp_path / "src" / "app.py")) == "app.py"
    assert short_path("/srv/shop/api.py") == "api.py"
    assert short_path("/srv/shop/sub/api.py") == "api.py"
    assert short_path("/srv/shopping/api.py") == "shopping/api.py"
    assert short_path("/opt/api.py") == "/opt/api.py"
    assert short_path("<string>") == "<string>"


def test_working_directory_that_is_gone(leak: Leak, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service whose working directory was removed gets its report, with whole paths."""
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert leak.file in leak_text(leak)
    finally:
        os.chdir(before)
