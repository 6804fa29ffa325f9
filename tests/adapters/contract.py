"""The contract that every adapter keeps, written once for functions and coroutines.

A test module makes a subclass of `SyncContract` or `AsyncContract` with a fixture ``library``: that is all.
"""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from tests.adapters.contract_fixtures import Run
from tests.adapters.contract_holds import HoldContract
from tests.adapters.contract_leaks import LeakContract
from tests.adapters.library import Library
from tests.adapters.shop.customers import AsyncCustomers, Customers
from tests.support.reports import Reports


class SyncContract(HoldContract, LeakContract):
    """The contract for a library of ordinary functions; what belongs to threads is added."""

    @pytest.fixture
    def run(self) -> Run:
        """Call it."""
        return lambda method, *args: method(*args)

    @pytest.fixture
    def customers(self, library: Library) -> Customers:
        """The repository with ordinary functions."""
        return Customers(library)

    def test_thread_ended(self, customers: Customers, reports: Reports) -> None:
        """What a finished thread still holds is reported, with the function and the thread."""
        thread = threading.Thread(target=customers.keep, name="seller")
        thread.start()
        thread.join()
        leak = reports.leak()

        assert leak.function == "customers.Customers.keep"
        assert "thread_ended" in leak.evidence
        assert leak.certainty == "possible"
        assert leak.attributes["thread.name"] == "seller"

    def test_released_in_another_thread(self, customers: Customers, reports: Reports) -> None:
        """A connection that another thread has and releases in the end is no leak, however long it takes."""
        go_on = threading.Event()

        def take(connection: Any) -> None:
            threads.append(threading.Thread(target=give_back, args=(connection,)))

        def give_back(connection: Any) -> None:
            go_on.wait()
            customers.release(connection)

        threads: list[threading.Thread] = []
        customers.lend(take)
        thread = threads.pop()
        thread.start()
        reports.none()
        go_on.set()
        thread.join()

        assert reports.hold_names() == ["Customers.lend"]
        reports.none()


class AsyncContract(HoldContract, LeakContract):
    """The contract for a library of coroutine functions; what belongs to asyncio tasks is added."""

    @pytest.fixture
    def run(self, runner: asyncio.Runner) -> Run:
        """Run it in a task of its own, in the context of the test: a runner has one of its own."""
        return lambda method, *args: runner.run(method(*args), context=contextvars.copy_context())

    @pytest.fixture
    def customers(self, library: Library) -> AsyncCustomers:
        """The repository with coroutine functions."""
        return AsyncCustomers(library)

    def test_task_ended(self, customers: AsyncCustomers, runner: asyncio.Runner, reports: Reports) -> None:
        """What a cancelled task still holds is reported, with the function and the task."""

        async def cancel_it() -> None:
            acquired = asyncio.Event()
            task = asyncio.create_task(customers.keep_and_wait(acquired), name="seller")
            await acquired.wait()
            task.cancel()
            await asyncio.wait([task])
            await asyncio.to_thread(reports.leak)

        runner.run(cancel_it())
        leak = reports.leak()

        assert leak.function == "customers.AsyncCustomers.keep_and_wait"
        assert "task_ended" in leak.evidence
        assert leak.certainty == "possible"
        assert leak.attributes["connleak.task.name"] == "seller"

    def test_released_in_another_task(
        self, customers: AsyncCustomers, runner: asyncio.Runner, reports: Reports
    ) -> None:
        """A connection that another task has and releases in the end is no leak, however long it takes."""

        async def give_back(connection: Any, go_on: asyncio.Event) -> None:
            await go_on.wait()
            await customers.release(connection)

        async def lend_it() -> None:
            go_on = asyncio.Event()
            tasks: list[asyncio.Task[None]] = []
            await customers.lend(lambda it: tasks.append(asyncio.create_task(give_back(it, go_on))))
            await asyncio.to_thread(reports.none)
            go_on.set()
            await tasks.pop()

        runner.run(lend_it())

        assert reports.hold_names() == ["AsyncCustomers.lend"]
        reports.none()
