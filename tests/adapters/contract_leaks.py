"""The part of the contract on leaks: who is named, how, when, and how it is withdrawn."""

from collections.abc import Callable
from typing import Any

from opentelemetry.trace import StatusCode

from tests.adapters.conftest import Instrument
from tests.adapters.contract_fixtures import ContractFixtures, Run, line_of_acquire
from tests.adapters.library import Library
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.telemetry import Telemetry


class LeakContract(ContractFixtures):
    """Tests that are the same for functions and coroutines."""

    def test_not_released_on_exception_path(
        self, library: Library, customers: Any, run: Run, reports: Reports
    ) -> None:
        """A function that an exception leaves without release is named as soon as the connection is gone."""
        with library.dropping():
            assert run(customers.answer) == 404
        leak = reports.leak()

        assert leak.function == f"customers.{type(customers).__name__}.fail_and_drop"
        assert "dropped" in leak.evidence
        assert leak.certainty == "confirmed"

    def test_dropped(
        self, library: Library, customers: Any, run: Run, instrument: Instrument, log: Callable[[], str]
    ) -> None:
        """A dropped connection is reported at once and for certain, and nothing of ours has kept it alive."""
        reports = instrument(grace=NEVER)
        with library.dropping():
            reference = run(customers.drop, library.reference)
        assert reference() is None
        leak = reports.leak()
        span = reports.telemetry.span("hold")

        assert leak.function == f"customers.{type(customers).__name__}.drop"
        assert leak.certainty == "confirmed"
        assert leak.attributes["code.line.number"] == line_of_acquire(customers.drop)
        assert span.status.status_code is StatusCode.ERROR
        if library.pool is not None:
            used = 0 if library.reclaims else 1
            assert f'pool "{library.pool}" {used}/{library.maximum} used' in log()
        # The slot of a pool is lost for good; a direct connection is closed when it is collected.
        lost = library.pool is not None and not library.reclaims
        assert reports.telemetry.value("connleak.leaks.open") == int(lost)

    def test_leak_span(
        self, library: Library, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """The report is a finished span of its own: in the trace of the hold, beside it and linked to it."""
        with telemetry.tracer_provider.get_tracer("application").start_as_current_span("request") as request:
            with library.dropping():
                run(customers.drop)
            reports.leak()
        hold, leak = telemetry.span("hold"), telemetry.span("leak")
        contexts = [link.context for link in leak.links]

        assert leak.name == f"leak {type(customers).__name__}.drop"
        assert leak.status.status_code is StatusCode.ERROR
        assert leak.parent is not None
        assert leak.parent.span_id == request.get_span_context().span_id
        assert leak.context is not None
        assert leak.context.trace_id == request.get_span_context().trace_id
        assert hold.context is not None
        assert leak.context.span_id != hold.context.span_id
        assert [context.span_id for context in contexts] == [hold.context.span_id]

    def test_leak_attributes(
        self, library: Library, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """A report carries the connection, its server process and open transaction; event and span agree."""
        known = run(customers.keep_in_transaction, library.facts)
        event = dict(reports.leak().attributes)
        span = dict(telemetry.span("leak").attributes or {})

        assert (
            known.items()
            | {
                ("connleak.transaction.outcome", "open"),
                ("connleak.resource", "connection"),
                ("thread.name", "MainThread"),
            }
            <= event.items()
        )
        assert event == span
        assert "in keep_in_transaction" in event["code.stacktrace"].partition("\n")[0].replace(
            f"{type(customers).__name__}.", ""
        )

    def test_log_line(
        self, library: Library, customers: Any, run: Run, reports: Reports, log: Callable[[], str]
    ) -> None:
        """The line for people says the same, complete on its own."""
        known = run(customers.keep_in_transaction, library.facts)
        reports.leak()
        text = log()

        assert (
            f"customers.{type(customers).__name__}.keep_in_transaction  tests/adapters/shop/customers.py:"
            in text
        )
        assert "transaction open" in text
        assert text.count("server pid") == int("connleak.server.pid" in known)
        assert f"server pid {known.get('connleak.server.pid')}" in text or "server pid" not in text
        assert ("SELECT … FROM customers" in text) == library.sees_calls
        assert "hint: " in text

    def test_counter(self, library: Library, customers: Any, run: Run, reports: Reports) -> None:
        """A leak is counted once, by function, resource and pool, and stays unreleased."""
        run(customers.keep)
        leak = reports.leak()
        function = leak.attributes["code.function.name"]
        about = {"code__function__name": function, "connleak__resource": "connection"}
        if library.pool is not None:
            about["db__client__connection__pool__name"] = library.pool

        assert reports.telemetry.value("connleak.leaks", **about, connleak__certainty="possible") == 1
        assert reports.telemetry.value("connleak.leaks.open", **about) == 1

    def test_function_exited(self, customers: Any, run: Run, reports: Reports) -> None:
        """A function that returned without a release is named after the grace, and not before."""
        run(customers.keep)
        leak = reports.leak()

        assert leak.function == f"customers.{type(customers).__name__}.keep"
        assert "function_exited" in leak.evidence
        assert leak.certainty == "possible"
        assert leak.attributes["connleak.use_time"] >= GRACE

    def test_late_release(self, customers: Any, run: Run, instrument: Instrument) -> None:
        """A reported hold that is released after all is withdrawn with the same id; its span tells it too."""
        reports = instrument(overdue_after=0.2)
        run(customers.think, reports.leak)
        leak, recovery = reports.leak(), reports.recovery()
        span = reports.telemetry.span("hold")

        assert leak.evidence == {"overdue"}
        assert recovery.id == leak.id
        assert recovery.attributes["connleak.use_time"] >= leak.attributes["connleak.use_time"]
        assert dict(span.attributes or {})["connleak.leak.id"] == leak.id
        assert reports.telemetry.value("connleak.leaks.open") == 0
