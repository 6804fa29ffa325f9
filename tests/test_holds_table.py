"""The table of ``otel-connleak holds``, from answers that are written here."""

from typing import Any

from otel_connleak.cli.holds_table import WIDTH, table

LIST = "shop.repositories.CustomerRepository.list_customers"
ORDER = "shop.repositories.Orders.place"


def entry(number: int, function: str = LIST, **others: Any) -> dict[str, Any]:
    """What a process says of one hold; ``others`` is what is not as usual."""
    usual = {
        "function": function,
        "file": "/srv/shop/repositories.py",
        "line": 41,
        "pool": "orders",
        "server_pid": 4240 + number,
        "thread": "MainThread",
        "use_time": 30.24,
        "idle_time": 30.1,
        "statements": 1,
        "number": number,
        "within": None,
        "resource": "connection",
        "task": None,
        "busy_for": None,
        "idle_for": 30.1,
        "transaction": "none",
        "writes": 0,
        "statement": "SELECT … FROM customers",
        "leak": None,
    }
    return usual | others


def lines(*holds: dict[str, Any], width: int = WIDTH, **others: Any) -> list[str]:
    """The table of these holds."""
    answer = {"pid": 4242, "python": "3.13.0", "version": "1", "time": 0.0, "pools": [], "holds": list(holds)}
    return table(answer | others, width)


def test_nothing() -> None:
    """Where nothing is held there is no table."""
    (line,) = lines()
    assert line.startswith("process 4242 · Python 3.13.0 · ")
    assert line.endswith(" · held: nothing")


def test_by_function() -> None:
    """The function with the oldest hold comes first, with its count; what is nested stands below."""
    said = lines(
        entry(4, leak="7c1f09-00c0ffee", statement="SELECT … t"),
        entry(1, ORDER, line=88, busy_for=0.25, idle_for=None, task="seller 7", statement="UPDATE orders"),
        entry(
            2,
            ORDER,
            within=1,
            resource="transaction",
            transaction="open",
            writes=2,
            statement="UPDATE orders",
        ),
        entry(3, use_time=12_000.0, idle_for=0.0401, line=43, statement="SELECT … t"),
        pools=[
            {"name": "orders", "used": 3, "maximum": 3, "waiting": 5},
            {"name": "other", "used": 1, "maximum": None, "waiting": None},
        ],
    )
    assert said[0].endswith(" · held: 3 connections, 1 transaction by 2 functions")
    assert said[1:] == [
        'pool "orders": 3 of 3 used, 5 waiting',
        'pool "other": 1 used',
        "",
        "    HELD                 DOING           POOL    SERVER PID  THREAD OR TASK  LEAK    LAST STATEMENT",
        f"{ORDER}  repositories.py:88  (1 connection)",
        "  30.2 s  connection     busy 250 ms     orders        4241  seller 7                UPDATE orders",
        "  30.2 s  └ transaction  open, 2 writes",
        f"{LIST}  repositories.py:43, repositories.py:41  (2 connections)",
        "   3.3 h  connection     idle 40 ms      orders        4243  MainThread              SELECT … t",
        "  30.2 s  connection     idle 30.1 s     orders        4244  MainThread      7c1f09  SELECT … t",
    ]


def test_nested() -> None:
    """A transaction that another function has begun says so; so does one that the server has aborted."""
    said = lines(
        entry(1, pool=None, server_pid=None),
        entry(2, ORDER, within=1, resource="transaction", transaction="aborted", writes=1, leak="c0ffee-1"),
        entry(3, within=1, resource="cursor", statement="DECLARE", idle_for=2.0),
    )
    assert said[2:] == [
        "    HELD                 DOING             THREAD OR TASK  LEAK    LAST STATEMENT",
        f"{LIST}  repositories.py:41  (1 connection)",
        "  30.2 s  connection     idle 30.1 s       MainThread              SELECT … FROM customers",
        "  30.2 s  └ transaction  aborted, 1 write                  c0ffee  begun by Orders.place",
        "  30.2 s  └ cursor       idle 2.0 s                                DECLARE",
    ]


def test_without_its_connection() -> None:
    """What is nested in a connection that was released meanwhile stands by itself."""
    said = lines(entry(2, within=1, resource="transaction", transaction="open"))
    assert said[0].endswith(" · held: 1 transaction by 1 function")
    assert said[-2].endswith("  (1 transaction)")


def test_width() -> None:
    """No line is longer than is asked for, whatever the names are; what does not fit is cut."""
    long = "x" * 200
    said = lines(entry(1, long, pool=long, task=long, statement=long, file=long))
    assert max(len(line) for line in said) == WIDTH
    assert said[-1].endswith("…")
    assert max(len(line) for line in lines(entry(1, long), width=60)) == 60


def test_control_characters() -> None:
    """A name that would do something to a terminal does not."""
    said = lines(entry(1, task="\x1b[2Jtask\r\n", statement="SELECT\x07 \u202e"))
    assert "?[2Jtask??" in said[-1]
    assert all(line.isprintable() for line in said)
