r"""What a statement does to its transaction: reads, writes, begins or ends it (L0).

Told from the first words, by regular expressions: this runs for each driver call, and a statement that was
seen before costs one look into a dict. There is no parser, and the database is not asked. What is not known:

- A function may write that is called from ``SELECT``, ``CALL``, ``DO``, ``EXECUTE`` or an anonymous block:
  `Verb.READ`, as are ``SELECT … INTO`` and ``SELECT … FOR UPDATE``. A false alarm costs more than a miss.
- A statement may commit on the way, as ``CREATE TABLE`` does in MySQL and Oracle: `Verb.WRITE`.
- SQLite's ``RELEASE`` commits if its savepoint has begun the transaction: `Verb.READ`.
- ``\'`` is an escaped quote in MySQL, and the end of the literal in the standard. That reading is taken in
  which all quotes are closed.
"""

import enum
import re
from typing import Any, Final


class Verb(enum.Enum):
    """What one statement, or one string of several, does to the transaction it runs in."""

    NONE = "none"
    """No statement is known: nothing ran, or what ran cannot be understood."""
    READ = "read"
    """Anything else: nothing that a rollback would lose, as far as one can see."""
    WRITE = "write"
    """Changes something that is lost if the transaction is rolled back."""
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    PREPARE = "prepare"
    """The first phase of two: the server keeps the transaction, without the connection."""
    COMMIT_PREPARED = "commit prepared"
    ROLLBACK_PREPARED = "rollback prepared"
    SAVEPOINT = "savepoint"
    RELEASE = "release savepoint"
    ROLLBACK_TO = "rollback to savepoint"


LONGEST: Final = 10_000
"""Characters (or bytes) of a statement that are looked at; a longer one is not remembered."""
MOST: Final = 1_000
"""Statements that are remembered, for each of str and bytes; then all are forgotten at once."""
TAIL: Final = 80
"""Characters at the end of a statement longer than `LONGEST` that are searched for a last ``COMMIT``."""

_ENDINGS: Final = frozenset({Verb.COMMIT, Verb.ROLLBACK, Verb.PREPARE})

# Mostly possessive ("++", "*+"): an odd statement does not make a pattern try again what it has passed.
# "/*!40101 …" is no comment: MySQL runs what is in it.
_COMMENT = r"--[^\n]*+|/\*!\d{5,6}|/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)"
_GAP = rf"(?:\s|{_COMMENT})++"
_MAYBE = rf"(?:{_GAP})?+"
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
_LEAD = rf"(?:[\s;(]|#[^\n]*+|{_COMMENT})*+"
_BEGINS = (
    rf"{_MAYBE}(?:[;)]|\Z|(?:WORK|TRAN|TRANSACTION|ISOLATION|READ|DEFERRABLE|NOT{_GAP}DEFERRABLE"
    r"|DEFERRED|IMMEDIATE|EXCLUSIVE|CONCURRENT)\b)"
)
_NAME = r"(?:[\w$]++|\"[^\"]*+\")"
_CURSOR = rf"{_GAP}{_NAME}(?:{_GAP}\w++)*?{_GAP}CURSOR\b"

_FIRST = re.compile(rf"{_LEAD}(?:([a-z]++)(?!\w)|(?=.))", _FLAGS)


def _next(pattern: str) -> re.Pattern[str]:
    """What may follow a first word: some space, and then this."""
    return re.compile(rf"{_GAP}(?:{pattern})\b", _FLAGS)


_WORDS: Final = {
    **dict.fromkeys(
        "INSERT UPDATE DELETE MERGE REPLACE UPSERT TRUNCATE CREATE ALTER DROP GRANT REVOKE REASSIGN COMMENT "
        "NOTIFY IMPORT".split(),
        Verb.WRITE,
    ),
    **dict.fromkeys(("COMMIT", "END"), Verb.COMMIT),
    **dict.fromkeys(("ROLLBACK", "ABORT"), Verb.ROLLBACK),
    **{verb.name: verb for verb in (Verb.SAVEPOINT, Verb.RELEASE)},
}
"""First words that are not `Verb.READ`, if nothing below says something else."""
_FOLLOWED: Final = {
    "BEGIN": ((re.compile(_BEGINS, _FLAGS), Verb.BEGIN),),
    "START": ((_next("TRANSACTION"), Verb.BEGIN),),
    "COMMIT": ((_next("PREPARED"), Verb.COMMIT_PREPARED),),
    "ROLLBACK": (
        (_next("PREPARED"), Verb.ROLLBACK_PREPARED),
        (_next(rf"(?:(?:WORK|TRAN|TRANSACTION){_GAP})?TO"), Verb.ROLLBACK_TO),
    ),
    "PREPARE": ((_next(rf"TRANSACTION\b(?!{_MAYBE}(?:AS\b|\())"), Verb.PREPARE),),
    "XA": (
        (_next("START|BEGIN"), Verb.BEGIN),
        (_next("PREPARE"), Verb.PREPARE),
        (_next("COMMIT"), Verb.COMMIT_PREPARED),
        (_next("ROLLBACK"), Verb.ROLLBACK_PREPARED),
    ),
    "CREATE": (
        (_next(rf"(?:OR{_GAP}REPLACE{_GAP})?(?:(?:LOCAL|GLOBAL|PRIVATE){_GAP})?TEMP(?:ORARY)?"), Verb.READ),
    ),
    "ALTER": ((_next("SESSION|SYSTEM"), Verb.READ),),
    "DROP": ((_next("TEMPORARY|PREPARE"), Verb.READ),),
    "COPY": (
        (
            re.compile(
                rf"{_MAYBE}(?:BINARY{_GAP})?{_NAME}(?:{_MAYBE}\.{_MAYBE}{_NAME})*+{_MAYBE}"
                rf"(?:\((?:[^\"()]|\"[^\"]*+\")*+\))?+{_MAYBE}FROM\b",
                _FLAGS,
            ),
            Verb.WRITE,
        ),
    ),
    "LOAD": ((_next("DATA|XML"), Verb.WRITE),),
    "REFRESH": ((_next("MATERIALIZED"), Verb.WRITE),),
    "SECURITY": ((_next("LABEL"), Verb.WRITE),),
}
"""What follows a first word and gives the statement another meaning."""
_WITH_WRITES = re.compile(
    r"(?:\bAS\s*+(?:(?:NOT\s++)?MATERIALIZED\s*+)?\(|\))\s*+"
    r"(?:INSERT|UPDATE|DELETE|MERGE|REPLACE\s++INTO)\b(?!\s*+[(),.])",
    _FLAGS,
)
"""In a ``WITH`` without literals and comments: a statement that writes, as a part or after the parts."""

_BODY = re.compile(
    rf"{_LEAD}(?:BEGIN\b(?!{_BEGINS})|DECLARE\b(?!{_CURSOR})|CREATE\b(?:(?!\b(?:TABLE|VIEW|INDEX)\b)[^(])*?"
    r"\b(?:(?:PROCEDURE|FUNCTION|PACKAGE|TRIGGER|EVENT)\b.*?\bBEGIN\b"
    r"|(?:PROCEDURE|FUNCTION|PACKAGE)\b.*?\b(?:IS|AS)\b(?!\s*+E?['\"]|\s++(?:NOT|NULL|DISTINCT)\b)))",
    _FLAGS,
)
"""A statement with a body: from here on semicolons separate the parts of one statement, not statements."""

_LAST = re.compile(r";\s*+((?:COMMIT|END|ROLLBACK|ABORT)(?:\s++(?:WORK|TRANSACTION))?+)[\s;]*+\Z", _FLAGS)
_REST = re.compile(r"[\s;]*+\Z")


def _quoted(escapes: bool) -> re.Pattern[str]:
    r"""Literals, quoted names and comments; the last group is there if one is not closed.

    A doubled quote is two literals side by side, which is as good. Each alternative starts with its own
    character, because `re` then looks for these characters only.
    """
    escaped = r"(?:[^{0}\\]++|\\(?:.|\Z))*+(?:{0}|(\Z))"
    plain = r"[^{0}]*+(?:{0}|(\Z))"
    inner = escaped if escapes else plain
    return re.compile(
        rf"'(?<=(?<!\w)E'){escaped.format("'")}|'{inner.format("'")}|\"{inner.format('"')}|`{plain.format('`')}"
        r"|\$(?<!\w\$)(?P<tag>(?:[a-z_]\w*+)?+)\$.*?(?:\$(?P=tag)\$|(\Z))"
        # "#>" and "#-" are operators on PostgreSQL's JSON, not comments.
        rf"|#(?![>\-=])[^\n]*+|{_COMMENT}",
        _FLAGS,
    )


_STANDARD = _quoted(escapes=False)
_ESCAPES = _quoted(escapes=True)
_OPEN = "\0"
_EMPTY: Final = {"'": "''", '"': '""', "`": '""', "$": "''"}


def _emptied(match: re.Match[str]) -> str:
    """Empty quotes for what is quoted, a space for a comment, and `_OPEN` for a quote that is not closed."""
    last = match.lastindex
    if last is not None and last != match.re.groupindex["tag"]:
        return _OPEN
    return _EMPTY.get(match[0][0], " ")


def _without_literals(text: str) -> str:
    """A statement with nothing left inside its quotes, and without its comments."""
    if "\\'" not in text and '\\"' not in text:
        return _STANDARD.sub(_emptied, text)
    escapes = _ESCAPES.sub(_emptied, text)
    if _OPEN in escapes:
        standard = _STANDARD.sub(_emptied, text)
        if _OPEN not in standard:
            return standard
    return escapes


def _single(text: str) -> Verb:
    """What one statement does."""
    first = _FIRST.match(text)
    if first is None:
        return Verb.NONE
    word = first[1]
    if word is None:
        return Verb.READ
    word = word.upper()
    for pattern, verb in _FOLLOWED.get(word, ()):
        if pattern.match(text, first.end()):
            return verb
    if word == "WITH":
        return Verb.WRITE if _WITH_WRITES.search(_without_literals(text)) else Verb.READ
    return _WORDS.get(word, Verb.READ)


def _several(statements: list[str]) -> Verb:
    """What several do: the last one that ends the transaction wins, then any that writes, then the first."""
    found = []
    for statement in statements:
        verb = _single(statement)
        if verb is not Verb.NONE:
            found.append(verb)
            if _BODY.match(statement):
                break
    ends = [verb for verb in found if verb in _ENDINGS]
    if ends:
        return ends[-1]
    if Verb.WRITE in found:
        return Verb.WRITE
    return found[0] if found else Verb.NONE


def _of_text(text: str, tail: str) -> Verb:
    """What a string does, from its beginning and, if that is not all of it, its end."""
    semicolon = text.find(";")
    last = _LAST.search(tail) if tail else None
    if last is None and (semicolon < 0 or _REST.match(text, semicolon)):
        return _single(text)
    statements = _without_literals(text).split(";")
    if last is not None:
        statements.append(last[1])
    return _several(statements)


_texts: dict[str, Verb] = {}
# Of its own, because Python can be told (-bb) to raise where a str is compared with bytes.
_bytes: dict[bytes, Verb] = {}


def _learn(statement: str | bytes) -> Verb:
    """Find out what a string does, and remember it."""
    size = len(statement)
    head, tail = statement[:LONGEST], statement[-TAIL:] if size > LONGEST else statement[:0]
    # Latin-1 has a character for each byte; keywords and quotes are ASCII in every client encoding.
    verb = _of_text(*[part if isinstance(part, str) else part.decode("latin-1") for part in (head, tail)])
    if size <= LONGEST:
        seen: dict[Any, Verb] = _texts if isinstance(statement, str) else _bytes
        if len(seen) >= MOST:
            seen.clear()
        seen[statement] = verb
    return verb


_VALUES: Final = frozenset({"Identifier", "Literal", "Placeholder"})


def _composed(statement: Any) -> str | None:
    """The text of a ``sql.Composable``, with a name in place of each value; None for anything else.

    Not ``as_string`` of the whole: psycopg2 needs a connection for a name, and applications adapt literals.
    """
    kind = type(statement)
    if not hasattr(kind, "as_string"):
        return None
    if kind.__name__ in _VALUES:
        return '"x"'
    if hasattr(kind, "__iter__"):
        return "".join([_composed(part) or "" for part in statement])
    text = statement.as_string(None)
    return str(text) if isinstance(text, str) else None


def verb_of(statement: Any) -> Verb:
    """What a statement does, as an application gave it to its driver.

    Any thread may call it, and it never raises. About 50 ns for a str or bytes that was seen before, and a
    microsecond for a new one.

    Args:
        statement: str, bytes, bytearray, or a ``sql.Composable`` of psycopg or psycopg2. Anything else is not
            understood, such as a template string of Python 3.14.

    Returns:
        The verb; `Verb.NONE` if there is no statement, or it is not understood.
    """
    kind = type(statement)
    if kind is str:
        verb = _texts.get(statement)
    elif kind is bytes:
        verb = _bytes.get(statement)
    else:
        verb = None
    return _new(statement) if verb is None else verb


def _new(statement: Any) -> Verb:
    """What a statement does that is not remembered under what it is."""
    try:
        if type(statement) in (str, bytes):
            return _learn(statement)
        if isinstance(statement, str):
            # A subclass may have its own idea of equality; its text has not.
            return verb_of(str.__str__(statement))
        if isinstance(statement, bytes | bytearray):
            return verb_of(bytes(statement))
        text = _composed(statement)
        return Verb.NONE if text is None else verb_of(text)
    except Exception:
        return Verb.NONE
