"""Sessions of SQLAlchemy, and what applications do with them: what is a leak, and whose, and what is none."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from otel_connleak import open_holds
from tests.adapters.shop import sessions as shop
from tests.support.reports import Report, Reports


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    """An engine on a file with a customer who has orders."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db", pool_logging_name="orders")
    shop.Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([shop.Customer(id=number, orders=[shop.Order()]) for number in range(5)])
        session.commit()
    yield engine
    gc.collect()
    engine.dispose()


def who(leak: Report) -> tuple[str, str]:
    """The function to blame, and for how certain."""
    return leak.function, leak.certainty


CORRECT: list[tuple[Callable[..., Any], list[str]]] = [
    (shop.serve, ["Repository.one"]),
    (shop.serve_lazily, ["Repository.customers", "count_orders"]),
    (shop.serve_in_transaction, ["Repository.one"]),
    (shop.write, ["write"]),
    (shop.read_slowly, ["read_slowly"]),
    (shop.depend, ["Repository.one"]),
    (shop.work, ["work"]),
    (shop.use_with_helper, ["use_with_helper"]),
]
"""Functions that release in the end, and whose holds there were."""


@pytest.mark.parametrize(("method", "owners"), CORRECT)
def test_correct(
    method: Callable[..., Any], owners: list[str], engine: sqlalchemy.Engine, reports: Reports
) -> None:
    """A request that takes longer than the grace is no leak, whichever function caused the acquire."""
    method(engine, reports.none)

    assert reports.hold_names() == owners
    assert open_holds() == []
    reports.none()


CARELESS: list[tuple[Callable[..., Any], str]] = [
    (shop.in_one_line, "in_one_line"),
    (shop.forget, "Repository.one"),
    (shop.forget_kept, "forget_kept"),
    (shop.forget_opened, "forget_opened"),
    (shop.forget_rows, "forget_rows"),
    (shop.raise_error, "raise_error"),
]
"""Functions that do not release, and who is to blame."""


@pytest.mark.parametrize(("method", "blamed"), CARELESS)
def test_careless(
    method: Callable[..., Any], blamed: str, engine: sqlalchemy.Engine, reports: Reports
) -> None:
    """A session or connection that is never closed is reported after the grace."""
    with suppress(exc.OperationalError):
        method(engine)

    assert who(reports.leak()) == (f"sessions.{blamed}", "possible")


@pytest.mark.parametrize(("method", "blamed"), CARELESS[:2])
def test_collected(
    method: Callable[..., Any], blamed: str, engine: sqlalchemy.Engine, reports: Reports
) -> None:
    """What was never closed and is collected is reported at once, although SQLAlchemy takes it back."""
    method(engine)
    gc.collect()
    leak = reports.leak()

    assert who(leak) == (f"sessions.{blamed}", "confirmed")
    assert "dropped" in leak.evidence
    assert reports.telemetry.value("connleak.leaks.open") == 0
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of QueuePool


@pytest.fixture(params=["thread", "request"])
def scoped(request: pytest.FixtureRequest, engine: sqlalchemy.Engine) -> Iterator[None]:
    """The application has a session for each thread, or for each request as Flask-SQLAlchemy has."""
    scope = threading.current_thread if request.param == "request" else None
    shop.scoped["db"] = scoped_session(sessionmaker(engine), scopefunc=scope)
    yield
    shop.scoped.clear()


@pytest.mark.usefixtures("scoped")
def test_scoped(engine: sqlalchemy.Engine, reports: Reports) -> None:
    """Requests at the same time, whose sessions nothing but a registry keeps, are no leaks."""
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            shop.serve_scoped(engine, reports.none)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert reports.hold_names() == ["list_scoped"] * 3
    reports.none()


@pytest.mark.usefixtures("scoped")
def test_scoped_and_forgotten(reports: Reports) -> None:
    """A session that was not removed before its thread ended is a leak."""
    thread = threading.Thread(target=shop.list_scoped, name="seller")
    thread.start()
    thread.join()
    gc.collect()
    leak = reports.leak()

    assert leak.function == "sessions.list_scoped"
    assert leak.attributes["thread.name"] == "seller"


@pytest.mark.usefixtures("scoped")
def test_scoped_after_the_request(reports: Reports) -> None:
    """A session for each request that the request did not remove is a leak; one of the thread stays there."""
    tracer = reports.telemetry.tracer_provider.get_tracer("application")
    with tracer.start_as_current_span("request"):
        shop.list_scoped()
    if shop.scoped["db"].registry.__class__.__name__ == "ThreadLocalRegistry":
        reports.none()
    else:
        assert who(reports.leak()) == ("sessions.list_scoped", "possible")
    shop.scoped["db"].remove()
    assert open_holds() == []
