"""What a report shows of a statement: never a literal, unless the user asks for all of it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import sql

from otel_connleak.statements import as_text, shown, summary

SUMMARIES = {
    "SELECT * FROM customers WHERE name = 'secret'": "SELECT … FROM customers",
    "select name from shop.customers as c where id = 4711": "SELECT … FROM shop.customers",
    "select * from a, b as c, d": "SELECT … FROM a, b, d",
    "select * from a join b on true left outer join c using (id)": "SELECT … FROM a, b, c",
    "INSERT INTO customers(id, name) VALUES (4711, 'secret')": "INSERT INTO customers",
    "insert into customers select * from others": "INSERT INTO customers, others",
    "UPDATE ONLY customers SET name = 'secret' WHERE id = 4711": "UPDATE customers",
    "DELETE FROM customers WHERE id = 4711": "DELETE FROM customers",
    "TRUNCATE TABLE a, b": "TRUNCATE a, b",
    "create table twin as select * from customers": "CREATE twin, customers",
    "BEGIN": "BEGIN",
    "listen channel": "LISTEN",
    "CALL do_it('secret')": "CALL",
    "values (1, 'secret')": "VALUES",
    "COPY customers FROM STDIN": "COPY",
    "COPY (SELECT * FROM customers) TO STDOUT": "COPY customers",
    # WITH
    "with t as (select * from src where z=1) select * from t": "SELECT … FROM src",
    "WITH a AS (SELECT * FROM x), b AS (SELECT 'secret' FROM y) INSERT INTO z SELECT * FROM a, b": (
        "INSERT INTO x, y, z"
    ),
    "WITH t AS (SELECT 4711) UPDATE customers SET name = 'secret' FROM t": "UPDATE customers",
    "with recursive t(n) as (select 1 union select n + 1 from t) select * from t": "SELECT",
    # subqueries and calls
    "select (select max(id) from orders) from customers": "SELECT … FROM orders, customers",
    "select * from t where a in (select b from u where c = 'secret')": "SELECT … FROM t, u",
    "(select 1 from t)": "SELECT … FROM t",
    "select * from (select 1 from t) as q": "SELECT … FROM t",
    "select * from generate_series(1, 4711)": "SELECT … FROM generate_series",
    "select extract(year from created) from orders": "SELECT … FROM orders",
    'select trim(both "secret" from "secret") from orders': "SELECT … FROM orders",
    # quoted names
    'SELECT * FROM "my schema"."my table" WHERE x = 4711': "SELECT … FROM my schema.my table",
    "SELECT * FROM `customers`": "SELECT … FROM customers",
    # comments
    "/* from secret */ SELECT 1 -- from secret\nFROM customers": "SELECT … FROM customers",
    "SELECT * FROM customers /*traceparent='00-secret-01'*/": "SELECT … FROM customers",
    # literals that look like something else
    "SELECT * FROM t WHERE a = 'it''s' AND b = 'from secret'": "SELECT … FROM t",
    "SELECT $$it's from secret$$ FROM t": "SELECT … FROM t",
    "SELECT $tag$ from secret $tag$ FROM t": "SELECT … FROM t",
    "SELECT 1 FROM t WHERE path = 'C:\\' AND b = 'from secret'": "SELECT",
    "SELECT 1 FROM t WHERE a = E'it\\'s from secret'": "SELECT",
    "SELECT 1 FROM t WHERE a = 'secret from secret": "SELECT",
    # placeholders
    "SELECT * FROM customers WHERE id = %s AND name = %(name)s": "SELECT … FROM customers",
    "SELECT * FROM customers WHERE id = $1": "SELECT … FROM customers",
    # not SQL
    "": "…",
    "  \n": "…",
    "'secret'": "…",
    "4711": "…",
    "garbage 'secret": "GARBAGE",
    "a" * 50: "…",
    "-- secret": "…",
}


@pytest.mark.parametrize("statement", SUMMARIES)
def test_summary(statement: str) -> None:
    """Operation and tables, and nothing else."""
    assert summary(statement) == SUMMARIES[statement]


def test_long_statement_is_not_parsed() -> None:
    """What takes long to parse is known by its first word: a dropped connection is to be reported soon."""
    assert summary("SELECT * FROM t WHERE id IN (" + "4711, " * 5_000 + "1)") == "SELECT"


def test_deeply_nested_statement() -> None:
    """What cannot be parsed is known by its first word, too."""
    assert summary("(" * 1_500 + "select 1" + ")" * 1_500) == "SELECT"


TEMPLATES = [
    "SELECT * FROM customers WHERE name = {}",
    "SELECT {} AS x, (SELECT max(id) FROM orders WHERE a = {}) FROM customers c JOIN items ON c.x = {}",
    "INSERT INTO customers (id, name) VALUES ({}, {}), ({}, {}) ON CONFLICT DO NOTHING",
    "UPDATE customers SET name = {} WHERE id = {}",
    "DELETE FROM customers WHERE name IN ({}, {})",
    "WITH t AS (SELECT {} FROM orders) SELECT * FROM t, customers WHERE t.name LIKE {}",
    "SELECT overlay({} placing {} from 2) FROM customers",
    "SELECT coalesce({}, name) FROM customers WHERE name BETWEEN {} AND {} -- comment",
    "COPY customers FROM {}",
    "SELECT 1 FROM {}",
    "{}",
    "select {}from customers",
]
MARK = "Xq7Z"
"""Every literal contains it, and no summary may."""


def quoted(text: str) -> str:
    """A string literal as standard SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def dollar_quoted(text: str) -> str:
    """A string literal as PostgreSQL also writes it."""
    return f"$body${text}$body$"


texts = st.builds(
    "{}{}{}".format,
    st.text(st.sampled_from(" ',;()\"-/*\\$%#\nabcFROMfrom"), max_size=12),
    st.just(MARK),
    st.text(st.sampled_from(" ',;()\"-/*\\$%#\nabcFROMfrom"), max_size=12),
)
literals = st.one_of(
    st.builds(quoted, texts),
    st.builds(quoted, st.just(f"from {MARK}")),
    st.builds(dollar_quoted, texts.filter(lambda text: "$" not in text)),
    st.integers(10**6, 10**12).map(lambda number: f"{number}{0:04}"),
)


@given(st.sampled_from(TEMPLATES), st.lists(literals, min_size=4, max_size=4))
@example("SELECT * FROM customers WHERE name = {} AND x = {}", ["'C:\\'", f"'from {MARK}'", "", ""])
def test_no_literal_is_shown(template: str, values: list[str]) -> None:
    """Whatever the literals of a statement contain, the summary contains nothing of them."""
    said = summary(template.format(*values))

    assert MARK.upper() not in said.upper()
    assert not any(character.isdigit() for character in said)


@given(st.text(max_size=200))
def test_summary_never_raises(text: str) -> None:
    """Any text has a summary, of one line."""
    assert "\n" not in summary(text)
    assert summary(text)


def test_as_text() -> None:
    """Statements come as text, bytes or composed; anything else is not shown."""
    composed = sql.SQL("SELECT {} FROM {}").format(sql.Literal("x"), sql.Identifier("shop", "customers"))

    assert as_text("SELECT 1") == "SELECT 1"
    assert as_text(b"SELECT '\xff'") == "SELECT '\N{REPLACEMENT CHARACTER}'"
    assert as_text(composed) == """SELECT 'x' FROM "shop"."customers\""""
    assert as_text(4711) is None
    assert as_text(None) is None


def test_statement_that_cannot_be_made_text() -> None:
    """An object that raises when it is asked for its text is not shown."""

    class Broken:
        def as_string(self, _context: object) -> str:
            raise ValueError

    assert as_text(Broken()) is None
    assert shown(Broken(), "full") is None


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("off", None),
        ("summary", "SELECT … FROM customers"),
        ("full", "SELECT * FROM customers WHERE name = 'secret'"),
    ],
)
def test_shown(form: str, expected: str | None) -> None:
    """The setting decides; in full it is one line."""
    assert shown("SELECT *\n  FROM customers\n WHERE name = 'secret'", form) == expected
    assert shown(b"SELECT * FROM customers WHERE name = 'secret'", form) == expected
    assert shown(None, form) is None
