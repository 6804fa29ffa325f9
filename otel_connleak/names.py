"""Every attribute, metric, event and span name that leaves the process (L0).

OpenTelemetry's own names come first; what OpenTelemetry has no word for is in the ``connleak`` namespace.
Source of the standard names: OpenTelemetry semantic conventions 1.44, "code", "db", "server" and "thread".
"""

from typing import Final

INSTRUMENTATION: Final = "otel_connleak"
"""Name of our tracer, meter, event logger and of the `logging` logger."""

CODE_FUNCTION_NAME: Final = "code.function.name"
CODE_FILE_PATH: Final = "code.file.path"
CODE_LINE_NUMBER: Final = "code.line.number"
CODE_STACKTRACE: Final = "code.stacktrace"
DB_SYSTEM_NAME: Final = "db.system.name"
DB_NAMESPACE: Final = "db.namespace"
DB_QUERY_SUMMARY: Final = "db.query.summary"
DB_QUERY_TEXT: Final = "db.query.text"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
POOL_NAME: Final = "db.client.connection.pool.name"
THREAD_NAME: Final = "thread.name"

TASK_NAME: Final = "connleak.task.name"
RESOURCE: Final = "connleak.resource"
SERVER_PID: Final = "connleak.server.pid"
USE_TIME: Final = "connleak.use_time"
IDLE_TIME: Final = "connleak.idle_time"
STATEMENTS: Final = "connleak.statements"
TRANSACTION_OUTCOME: Final = "connleak.transaction.outcome"
TRANSACTION_WRITES: Final = "connleak.transaction.writes"
LEAK_ID: Final = "connleak.id"
FINGERPRINT: Final = "connleak.fingerprint"
EVIDENCE: Final = "connleak.evidence"
CERTAINTY: Final = "connleak.certainty"
HOLD_LEAK_ID: Final = "connleak.leak.id"

HOLD_SPAN: Final = "hold"
"""First word of a hold span's name; the second is ``Class.function``."""
LEAK_SPAN: Final = "leak"
"""First word of a leak span's name; the second is ``Class.function``."""

LEAK_EVENT: Final = "connleak.leak"
RECOVERED_EVENT: Final = "connleak.recovered"
IDLE_EVENT: Final = "connleak.idle"

LEAKS_METRIC: Final = "connleak.leaks"
LEAKS_OPEN_METRIC: Final = "connleak.leaks.open"
IDLE_TIME_METRIC: Final = "connleak.hold.idle_time"
DISCARDED_METRIC: Final = "connleak.transactions.discarded"
