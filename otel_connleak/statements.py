"""What a report may show of a statement: nothing, a summary without literals, or all of it (L1).

Done only when a report is written. The parsing is `sqlparse`'s: `sqlglot`
knows more dialects, but its import takes 150 ms, and a dropped connection is to be reported within 100 ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

_BEFORE_TABLES: Final = frozenset({"FROM", "INTO", "UPDATE", "TABLE"})
_LONGEST: Final = 4_000
"""Characters of a statement that are parsed; a longer one is summarized by its first word."""
_ESCAPED_QUOTE: Final = re.compile(r"\\['\"]")
"""Whether it ends the literal differs between databases: what follows could be a part of it."""
_FIRST_WORD: Final = re.compile(r"[\s(;]*([A-Za-z]{1,20})\b")


def as_text(statement: Any) -> str | None:
    """The statement as text, or None if it is of no type that can be shown. Never raises."""
    try:
        if isinstance(statement, str):
            return statement
        if isinstance(statement, bytes):
            return statement.decode("utf-8", "replace")
        if hasattr(statement, "as_string"):  # psycopg.sql.Composable
            return str(statement.as_string(None))
    except Exception:
        return None
    return None


def summary(sql: str) -> str:
    """Operation and tables of a statement, without literals, for example ``SELECT … FROM customers``.

    Args:
        sql: one statement, with the driver's placeholders.

    Returns:
        The summary; only the first word in capitals where no table can be found, or where it is not certain
        what is a literal. Never raises.
    """
    word = _FIRST_WORD.match(sql)
    first = word[1].upper() if word is not None else "…"
    if len(sql) > _LONGEST or _ESCAPED_QUOTE.search(sql):
        return first
    try:
        import sqlparse  # here, because it is not needed before the first report

        statement = sqlparse.parse(sql)[0]
        if any(token.ttype is sqlparse.tokens.Error for token in statement.flatten()):
            return first  # a quote that is not closed
        tables = list(dict.fromkeys(_tables(statement)))
        operation = str(statement.get_type())
    except Exception:
        return first
    if operation == "UNKNOWN":
        operation = first
    if not tables:
        return operation
    between = {"SELECT": " … FROM ", "INSERT": " INTO ", "DELETE": " FROM "}.get(operation, " ")
    return operation + between + ", ".join(tables)


def _tables(statement: Any) -> Iterator[str]:
    """The names behind FROM, JOIN, INTO, UPDATE and TABLE, at every depth; not the names of its own WITH."""
    own = {name.lower() for name in _own_names(statement)}
    expected = False
    for token in _tokens(statement):
        if token.is_keyword:
            word = token.normalized.upper()
            known = word in _BEFORE_TABLES or word.endswith("JOIN")
            expected = known or (expected and word in ("ONLY", "AS"))
        elif expected and not token.is_whitespace and token.value != "(":
            for name in _names(token):
                if name.lower() not in own:
                    yield name
            expected = False


def _tokens(group: Any) -> Iterator[Any]:
    """The tokens of a statement from left to right; a name is one token, parentheses are entered."""
    from sqlparse import sql

    call = isinstance(group, sql.Parenthesis) and not _is_query(group)
    for token in group.tokens:
        if isinstance(token, sql.Comment) or (call and token.normalized == "FROM"):
            continue  # EXTRACT(year FROM created)
        if isinstance(token, sql.Identifier | sql.IdentifierList | sql.Function):
            yield token
            yield from _inside_parentheses(token)
        elif token.is_group:
            yield from _tokens(token)
        else:
            yield token


def _inside_parentheses(group: Any) -> Iterator[Any]:
    from sqlparse import sql

    for token in group.tokens:
        if isinstance(token, sql.Parenthesis):
            yield from _tokens(token)
        elif token.is_group:
            yield from _inside_parentheses(token)


def _is_query(parenthesis: Any) -> bool:
    from sqlparse import tokens

    return any(token.ttype in tokens.Keyword.DML for token in parenthesis.tokens)


def _names(token: Any) -> Iterator[str]:
    from sqlparse import sql

    if isinstance(token, sql.IdentifierList):
        for identifier in token.get_identifiers():
            yield from _names(identifier)
    elif isinstance(token, sql.Function):
        yield str(token.get_name())  # INSERT INTO customers(id, …) reads like a call
    elif isinstance(token, sql.Identifier) and not isinstance(token.token_first(), sql.Parenthesis):
        parent = token.get_parent_name()
        name = token.get_real_name()
        if name:
            yield f"{parent}.{name}" if parent else str(name)


def _own_names(statement: Any) -> Iterator[str]:
    """What the statement itself defines in its WITH clause."""
    from sqlparse import sql, tokens

    index, _ = statement.token_next_by(t=tokens.Keyword.CTE)
    if index is not None:
        # The next one, if it is not RECURSIVE.
        _, names = statement.token_next_by(i=(sql.Identifier, sql.IdentifierList), idx=index)
        for identifier in getattr(names, "get_identifiers", lambda: [names])():
            yield str(identifier.get_name())


def shown(statement: Any, form: str) -> str | None:
    """What a report shows of the last statement.

    Args:
        statement: as the application gave it to the driver, or None.
        form: the setting ``STATEMENTS``: ``off``, ``summary`` or ``full``.
    """
    text = as_text(statement) if statement is not None and form != "off" else None
    if text is None:
        return None
    if form == "full":
        return " ".join(text.split())
    return summary(text)
