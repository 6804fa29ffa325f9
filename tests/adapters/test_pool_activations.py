"""A function is not an activation: of several in the same code, the one that leaks is reported."""

import threading
from concurrent.futures import ThreadPoolExecutor

from otel_connleak import open_holds
from tests.adapters.shop.orders import Orders, OutOfStock
from tests.support.reports import Report, Reports


def who(leak: Report) -> tuple[str, str]:
    """The function to blame, and for how certain."""
    return leak.function, leak.certainty


def test_recursion(orders: Orders, reports: Reports) -> None:
    """Of several activations of the same code the one that leaks is reported, while the others hold on."""
    pids: list[int] = []
    orders.descend(4, 2, reports.leak, pids)
    leak = reports.leak()

    assert leak.attributes["connleak.server.pid"] == pids[2]
    assert reports.hold_names() == ["Orders.descend"] * 3


def test_two_threads(orders: Orders, reports: Reports) -> None:
    """Of two threads in the same function the one that leaks is reported, while the other holds on."""
    together = threading.Barrier(2)

    def wait_for_report() -> None:
        together.wait(10)
        reports.leak()

    with ThreadPoolExecutor(2) as executor:
        correct = executor.submit(orders.hold, wait_for_report, leak=False)
        wrong = executor.submit(orders.hold, lambda: together.wait(10), leak=True)
        pid = wrong.result()
        assert correct.result() != pid

    assert reports.leak().attributes["connleak.server.pid"] == pid
    assert reports.hold_names() == ["Orders.hold"]


def test_two_connections(orders: Orders, reports: Reports) -> None:
    """Of two connections of one activation only the one that it did not release is reported."""
    orders.hold_twice()

    assert who(reports.leak()) == ("orders.Orders.hold_twice", "possible")
    assert reports.hold_names() == ["Orders.hold_twice"]
    assert [hold.function.rpartition(".")[2] for hold in open_holds()] == ["hold_twice"]


def test_kept_by_a_traceback(orders: Orders, reports: Reports) -> None:
    """A connection that only the traceback of a stored exception reaches will be released by nobody."""
    try:
        orders.fail_with_connection()
    except OutOfStock as error:
        stored = error
    leak = reports.leak()

    assert who(leak) == ("orders.Orders.fail_with_connection", "possible")
    assert leak.evidence == {"function_exited"}
    assert stored.__traceback__ is not None
