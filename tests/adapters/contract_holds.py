"""The part of the contract on holds: what is seen of an acquire and its release, and what must not change."""

import inspect
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract_fixtures import ContractFixtures, Run, line_of_acquire, outcome, shape
from tests.adapters.library import Library
from tests.adapters.shop.customers import AsyncCustomers, NoSuchCustomer
from tests.conftest import Replaced
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry


class HoldContract(ContractFixtures):
    """Tests that are the same for functions and coroutines."""

    def test_hold_span(
        self, library: Library, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """An acquire and its release make one hold span, which names the function and the connection."""
        known = run(customers.inspect, library.facts)
        (span,) = telemetry.spans("hold")
        attributes = dict(span.attributes or {})
        name = f"{type(customers).__name__}.inspect"
        expected = known | {
            "code.function.name": f"tests.adapters.shop.customers.{name}",
            "code.file.path": inspect.getfile(type(customers)),
            "code.line.number": line_of_acquire(customers.inspect),
            "connleak.resource": "connection",
            "thread.name": "MainThread",
        }
        if library.pool is not None:
            expected["db.client.connection.pool.name"] = library.pool

        assert (span.name, span.kind, span.status.status_code) == (
            f"hold {name}",
            SpanKind.INTERNAL,
            StatusCode.UNSET,
        )
        assert expected.items() <= attributes.items()
        assert ("connleak.task.name" in attributes) == isinstance(customers, AsyncCustomers)
        assert "connleak.leak.id" not in attributes
        reports.none()

    def test_times_and_calls(
        self, library: Library, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """A hold span carries how long it took, how long idle, and how often the driver was called."""
        run(customers.list_customers)
        (span,) = telemetry.spans("hold")
        attributes = dict(span.attributes or {})

        assert 0 <= attributes["connleak.idle_time"] < attributes["connleak.use_time"] < 10  # type: ignore[operator]
        assert (attributes["connleak.statements"] >= 1) == library.sees_calls  # type: ignore[operator]

    def test_hold_in_the_application_trace(
        self, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """The hold is a child of the span in which it was acquired, and never the current one itself."""
        tracer = telemetry.tracer_provider.get_tracer("application")

        def current(_connection: Any) -> Any:
            return trace.get_current_span()

        with tracer.start_as_current_span("request") as request:
            inside = run(customers.inspect, current)
        (hold,) = telemetry.spans("hold")

        assert hold.parent is not None
        assert hold.parent.span_id == request.get_span_context().span_id
        assert inside is request

    def test_released_on_exception_path(self, customers: Any, run: Run, reports: Reports) -> None:
        """A function that releases on its way out of an exception is no leak, and the exception passes."""
        with pytest.raises(NoSuchCustomer):
            run(customers.fail)

        assert reports.hold_names() == [f"{type(customers).__name__}.fail"]
        reports.none()

    def test_second_release(self, customers: Any, run: Run, instrument: Instrument) -> None:
        """What the library says to a second release is what the application hears; one hold was released."""
        without = outcome(run, customers.release_twice)
        reports = instrument()

        assert outcome(run, customers.release_twice) == without
        assert reports.hold_names() == [f"{type(customers).__name__}.release_twice"]
        assert open_holds() == []

    def test_refusal(self, customers: Any, run: Run, instrument: Instrument) -> None:
        """An error of the library passes through untouched, and opens no hold."""
        without = outcome(run, customers.be_refused)
        reports = instrument()

        assert issubclass(without[0], Exception)
        assert outcome(run, customers.be_refused) == without
        assert open_holds() == []
        assert reports.hold_names() == []

    def test_connection_unchanged(
        self, library: Library, customers: Any, run: Run, instrument: Instrument
    ) -> None:
        """The application gets the very type it got before, without a mark on it or a reference to it.

        Where that cannot be it is a subclass of the same name.
        """
        without = run(customers.inspect, shape)
        instrument()
        given = run(customers.inspect, shape)

        assert given[1:] == without[1:]
        assert without[0] is library.connection_type
        assert (given[0] is not without[0]) == library.subclasses
        assert issubclass(given[0], without[0])
        assert str(given[0]) == str(without[0])
        if library.reuses:
            assert run(customers.inspect, id) == run(customers.inspect, id)

    def test_uninstrument(
        self, customers: Any, run: Run, telemetry: Telemetry, replaced: list[Replaced]
    ) -> None:
        """After the instrumentation has gone nothing is seen any more, and what was held can be released.

        The functions of the library are the identical ones again.
        """
        held: list[Any] = []
        with telemetry.instrumented():
            run(customers.lend, held.append)
        telemetry.clear()
        assert [each for each in replaced if each.now is not each.original] == []
        run(customers.release, held.pop())
        run(customers.list_customers)

        assert telemetry.spans() == []
        assert open_holds() == []
        assert [thread.name for thread in threading.enumerate() if "connleak" in thread.name] == []
