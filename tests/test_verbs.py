"""What a statement does to its transaction, in the dialects of PostgreSQL, MySQL, SQLite and Oracle."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Never

import psycopg.sql
import psycopg2.sql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_connleak import verbs
from otel_connleak.verbs import Verb, verb_of

STATEMENTS = {
    Verb.NONE: ["", " \n", ";", "-- only a comment", "/* only */ ; # comments", "/* not closed"],
    Verb.READ: [
        "SELECT 1",
        "(SELECT 1) UNION (SELECT 2);",
        "/*+ hint */ select 1",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * INTO copy FROM t",
        "SELECT 'x; COMMIT'",
        "SELECT $$; COMMIT $$, $a$ $$; DELETE FROM t $a$",
        "SELECT 1; -- COMMIT; \n",
        'SELECT 1 /* ; COMMIT */; SELECT `;COMMIT`, "; DELETE FROM t"',
        "SELECT E'it\\'s; COMMIT'",
        "SELECT 'it\\'s; COMMIT', 'it\\'s; DELETE'",  # MySQL
        "SELECT data #>> '{a}', data #- '{b}' FROM t; SELECT 2",
        "TABLE t",
        "VALUES (1)",
        "SHOW ALL",
        "SET LOCAL x = 1",
        "LOCK TABLE t",
        "LISTEN channel",
        "DECLARE c CURSOR FOR SELECT 1",
        "DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1; FETCH 1 FROM c",
        "FETCH 1 FROM c",
        "CALL p()",
        "DO $$ BEGIN DELETE FROM t; COMMIT; END $$",
        "EXPLAIN ANALYZE DELETE FROM t",
        "PRAGMA user_version",
        "PREPARE s AS DELETE FROM t",
        "PREPARE transaction AS SELECT 1",
        "EXECUTE s",
        "REINDEX TABLE t",
        "VACUUM",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TEMPORARY TABLE t AS SELECT 1",
        "create local temp view v as select 1",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
        "CREATE GLOBAL TEMPORARY TABLE t (a int)",
        "DROP TEMPORARY TABLE t",
        "ALTER SESSION SET nls_date_format = 'x'",
        "COPY t TO STDOUT",
        'COPY "from" ("from") TO STDOUT',
        "COPY (SELECT a FROM t) TO STDOUT",
        "COPY (SELECT a FROM t WHERE b = 'x') TO '/tmp/from'",
        "LOAD 'auto_explain'",
        "START REPLICA",
        "XA END 'x'",
        "XA RECOVER",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "WITH x AS (SELECT a FROM t FOR UPDATE) SELECT * FROM x FOR NO KEY UPDATE",
        "WITH x AS (SELECT ') DELETE FROM t') SELECT 1",
        'WITH x AS (SELECT 1 AS ") DELETE FROM t") SELECT 1',
        "WITH x AS (SELECT $$) DELETE FROM t$$) SELECT 1",
        "WITH x AS (SELECT 1 /*) DELETE FROM t */) SELECT 1 -- ) DELETE FROM t",
        "WITH x AS (SELECT update, x.delete, replace(a, 'b', 'c') FROM t) SELECT * FROM x",
        "{call p(?)}",
        "42",
        "INSERTED",
        "éINSERT",
        "ınsert into t values (1)",
        "BEGIN p(:a); END;",  # an Oracle block
        "BEGIN INSERT INTO t VALUES (1); COMMIT; END;",
        "DECLARE n NUMBER; BEGIN DELETE FROM t; COMMIT; END;",
    ],
    Verb.WRITE: [
        "INSERT INTO t VALUES (1)",
        "insert into t values ('; COMMIT')",
        "  \n-- why\n/* a */ # b\n INSERT INTO t VALUES (1);",
        "/*!40101 INSERT INTO t VALUES (1) */",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "DELETE\nFROM t;\n;",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
        "REPLACE INTO t VALUES (1)",
        "UPSERT INTO t VALUES (1)",
        "TRUNCATE t",
        "CREATE TABLE temp (a int)",
        "CREATE UNIQUE INDEX i ON t (a)",
        "CREATE TABLE temporary_things (a int)",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END",
        "CREATE PROCEDURE p() BEGIN INSERT INTO t VALUES (1); COMMIT; END",
        "CREATE OR REPLACE PROCEDURE p IS n NUMBER; BEGIN COMMIT; END;",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "CREATE FUNCTION f() RETURNS int AS $$ BEGIN COMMIT; END $$ LANGUAGE plpgsql;",
        "ALTER TABLE t ADD b int",
        "DROP TABLE t",
        "GRANT SELECT ON t TO r",
        "REVOKE SELECT ON t FROM r",
        "COMMENT ON TABLE t IS 'x'",
        "COPY t FROM STDIN",
        'COPY "s"."to" (a, "to)") FROM STDIN',
        "COPY s.t(a)FROM STDIN",
        "COPY BINARY t FROM STDIN",
        "NOTIFY channel",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "LOAD DATA LOCAL INFILE 'x' INTO TABLE t",
        "IMPORT FOREIGN SCHEMA s FROM SERVER f INTO t",
        "SECURITY LABEL ON TABLE t IS 'x'",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        'WITH "x" (a) AS NOT MATERIALIZED (SELECT 1), y AS (SELECT 2)\n-- then\nUPDATE t SET a = 1',
        "WITH RECURSIVE x AS (SELECT 1) DELETE FROM t",
        "WITH x AS (SELECT 1) MERGE INTO t USING x ON true WHEN MATCHED THEN DELETE",
        "WITH x AS (SELECT 1) REPLACE INTO t SELECT * FROM x",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "WITH x AS MATERIALIZED ( /* all */ UPDATE t SET a = ')' RETURNING *) SELECT * FROM x",
        "WITH x AS (SELECT '\\'), y AS (INSERT INTO t VALUES ('a') RETURNING *) SELECT 1",
        "BEGIN; INSERT INTO t VALUES (1)",
        "SELECT 1; DELETE FROM t; SELECT 2",
        "SET x = 1; WITH x AS (SELECT ';') DELETE FROM t",
        "INSERT INTO t VALUES ('not closed; COMMIT",
        "INSERT INTO t VALUES ('a'); ROLLBACK TO a",
        "DELETE FROM t WHERE a LIKE '\\%' ESCAPE '\\'; SELECT 'COMMIT'",
    ],
    Verb.SAVEPOINT: ["SAVEPOINT a"],
    Verb.RELEASE: ["RELEASE SAVEPOINT a", "release a"],
    Verb.ROLLBACK_TO: [
        "ROLLBACK TO a",
        "ROLLBACK TO SAVEPOINT a",
        "ROLLBACK WORK TO SAVEPOINT a",
        "rollback transaction /* not all */ to a",
    ],
    Verb.BEGIN: [
        "BEGIN",
        "begin;",
        "BEGIN WORK",
        "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "BEGIN READ ONLY",
        "BEGIN NOT DEFERRABLE",
        "BEGIN IMMEDIATE",
        "BEGIN DEFERRED TRANSACTION",
        "BEGIN /* x */ EXCLUSIVE -- y",
        "START TRANSACTION",
        "START TRANSACTION READ ONLY;",
        "BEGIN; SELECT 1",
        "XA START 'x'",
        "XA BEGIN 'x'",
    ],
    Verb.COMMIT: [
        "COMMIT",
        "commit ;",
        "COMMIT WORK",
        "COMMIT TRANSACTION",
        "COMMIT AND CHAIN",
        "END",
        "END TRANSACTION",
        "-- last\nCOMMIT",
        "BEGIN; INSERT INTO t VALUES ('ROLLBACK;'); COMMIT",
        "ROLLBACK; BEGIN; COMMIT; SELECT 1",
        "COMMIT; BEGIN",
        "SELECT 'C:\\'; COMMIT",
        "CREATE TABLE t (begin int); COMMIT",
        "CREATE FUNCTION f() RETURNS int AS E'SELECT 1;' LANGUAGE sql; COMMIT",
        "CREATE TRIGGER x AFTER UPDATE ON t WHEN (OLD.a IS DISTINCT FROM NEW.a) EXECUTE FUNCTION f(); COMMIT",
        "DECLARE c CURSOR FOR SELECT 1; FETCH 1 FROM c; COMMIT",
    ],
    Verb.ROLLBACK: [
        "ROLLBACK",
        "ROLLBACK WORK",
        "ROLLBACK TRANSACTION",
        "ROLLBACK AND CHAIN",
        "ABORT",
        "BEGIN; DELETE FROM t; ROLLBACK;",
        "ROLLBACK TO a; ROLLBACK",
    ],
    Verb.PREPARE: ["PREPARE TRANSACTION 'x'", "DELETE FROM t; prepare transaction 'x'", "XA PREPARE 'x'"],
    Verb.COMMIT_PREPARED: ["COMMIT PREPARED 'x'", "XA COMMIT 'x' ONE PHASE"],
    Verb.ROLLBACK_PREPARED: ["ROLLBACK PREPARED 'x'", "XA ROLLBACK 'x'"],
}
EACH = [(statement, verb) for verb, statements in STATEMENTS.items() for statement in statements]
ANY_TEXT = (
    st.text()
    | st.text("'\"`$\\-/*#;()E\n x")
    | st.lists(st.sampled_from(EACH)).map(lambda found: "".join(statement for statement, _ in found))
)


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """Each test starts with a cache in which there is nothing, and leaves it like that."""
    verbs._texts.clear()
    verbs._bytes.clear()
    yield
    verbs._texts.clear()
    verbs._bytes.clear()


@pytest.mark.parametrize(("statement", "verb"), EACH)
def test_statement(statement: str, verb: Verb) -> None:
    """Each statement has its verb, as str, bytes and bytearray, the first time and when it is known."""
    assert [verb_of(statement), verb_of(statement)] == [verb, verb]
    raw = statement.encode()
    assert [verb_of(raw), verb_of(raw), verb_of(bytearray(raw))] == [verb, verb, verb]


@pytest.mark.parametrize("sql", [psycopg.sql, psycopg2.sql])
def test_composed(sql: Any) -> None:
    """The composed statements of psycopg and psycopg2 are understood without a connection."""
    name, value = sql.Identifier("s", "t; COMMIT"), sql.Literal("; COMMIT")

    assert verb_of(sql.SQL("COMMIT")) is Verb.COMMIT
    assert (
        verb_of(sql.SQL("INSERT INTO {} VALUES ({}, {})").format(name, value, sql.Placeholder()))
        is Verb.WRITE
    )
    assert verb_of(sql.SQL("COPY {} ({}) FROM STDIN").format(name, sql.SQL(", ").join([name]))) is Verb.WRITE
    assert (
        verb_of(sql.SQL("; ").join([sql.SQL("SELECT {}").format(value), sql.SQL("ROLLBACK")]))
        is Verb.ROLLBACK
    )


class Hostile:
    """An object on which everything fails that a statement could be asked."""

    def __hash__(self) -> int:
        raise ValueError

    def __eq__(self, other: object) -> bool:
        raise ValueError

    def __iter__(self) -> Iterator[Any]:
        raise ValueError

    def __getattribute__(self, name: str) -> Never:
        raise ValueError  # isinstance asks for __class__

    def as_string(self, context: object) -> str:
        """Fail as well."""
        raise ValueError


class Text(str):
    """A str that is equal to everything."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("statement", [None, 1, [], {}, object(), str, Hostile, ["COMMIT"]])
def test_not_understood(statement: object) -> None:
    """What is no statement has no verb, and nothing is raised."""
    assert verb_of(statement) is Verb.NONE


def test_hostile_object() -> None:
    """An object that raises whatever it is asked has no verb either."""
    assert verb_of(Hostile()) is Verb.NONE


def test_subclass_of_str() -> None:
    """A subclass of str is understood by its text, and the object itself is not kept."""
    assert verb_of(Text("DELETE FROM t")) is Verb.WRITE
    assert [type(text) for text in verbs._texts] == [str]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(ANY_TEXT | ANY_TEXT.map(str.encode) | st.binary())
def test_never_raises(statement: str | bytes) -> None:
    """Any text has a verb, found without an exception inside."""
    assert isinstance(verbs._learn(statement), Verb)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(ANY_TEXT.filter(lambda text: "\\" not in text), st.sampled_from(["'", '"', "`", "$a$", "/*", "--"]))
def test_literals_do_not_matter(text: str, quote: str) -> None:
    """What is inside of quotes or a comment changes no verb, whatever it is."""
    if quote in ("$a$", "/*", "--"):
        text = text.replace("$", "").replace("*/", "").replace("\n", "").rstrip("*")
        closed = {"/*": "*/", "--": "\n"}.get(quote, quote)
        literal = f"{quote} {text} {closed}"
    else:
        literal = quote + text.replace(quote, quote * 2) + quote
    for before, after, verb in [
        ("SELECT 1, ", " FROM t", Verb.READ),
        ("SELECT 1, ", " FROM t; COMMIT", Verb.COMMIT),
        ("SELECT ", "; DELETE FROM t", Verb.WRITE),
        ("INSERT INTO t VALUES (", ")", Verb.WRITE),
        ("WITH x AS (SELECT ", ") SELECT * FROM x", Verb.READ),
        ("WITH x AS (SELECT ", ") DELETE FROM t", Verb.WRITE),
    ]:
        assert verbs._learn(before + literal + after) is verb


def test_memory_is_bounded() -> None:
    """Long statements are not remembered, and short ones only until there are too many."""
    longest = "DELETE FROM t WHERE a = '" + "x" * verbs.LONGEST + "'"
    assert [verb_of(longest), verb_of(longest.encode())] == [Verb.WRITE, Verb.WRITE]
    assert [verbs._texts, verbs._bytes] == [{}, {}]

    for number in range(verbs.MOST * 2 + 5):
        assert verb_of(f"DELETE FROM t WHERE a = {number}") is Verb.WRITE
        assert verb_of(b"SELECT %d" % number) is Verb.READ
        assert max(len(verbs._texts), len(verbs._bytes)) <= verbs.MOST


@pytest.mark.parametrize(
    ("end", "verb"),
    [
        ("; COMMIT;\n", Verb.COMMIT),
        ("; rollback work", Verb.ROLLBACK),
        ("; SELECT '; COMMIT'", Verb.WRITE),
        (";\n", Verb.WRITE),
    ],
)
def test_end_of_a_long_statement(end: str, verb: Verb) -> None:
    """Of a statement that is too long to be read as a whole, the end is looked at."""
    statement = "BEGIN; INSERT INTO t VALUES " + ", ".join(["('it''s; COMMIT')"] * 2_000) + end
    assert [verb_of(statement), verb_of(statement.encode())] == [verb, verb]


@pytest.mark.parametrize(
    "part",
    [
        "'",
        "\\'",
        "''",
        '"',
        "`",
        "$$",
        "$a$ ",
        "/*",
        "*/",
        "--",
        "#",
        "(",
        ";",
        "\n",
        "E'\\",
        "a ",
        "AS ",
        ") ",
    ],
)
@pytest.mark.parametrize(
    "start", ["", "WITH x AS (", "CREATE ", "COPY ", "DECLARE c ", "BEGIN;", "CREATE FUNCTION "]
)
def test_no_statement_takes_long(start: str, part: str) -> None:
    """However odd a statement is, it takes milliseconds of the processor at most."""
    statement = start + part * (verbs.LONGEST // len(part)) + ";x"
    before = time.thread_time()
    verb_of(statement)
    assert time.thread_time() - before < 0.1


def test_bytes_and_text_are_not_compared() -> None:
    """With ``python -bb``, which raises where str and bytes are compared, both are understood."""
    program = (
        "from otel_connleak.verbs import verb_of, Verb\n"
        "for statement in ['COMMIT', b'COMMIT', 'COMMIT', b'COMMIT']:\n"
        "    assert verb_of(statement) is Verb.COMMIT\n"
    )
    subprocess.run([sys.executable, "-bb", "-c", program], check=True, timeout=60)
