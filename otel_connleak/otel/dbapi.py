"""``trace_dbapi``: any DB-API 2.0 module, through ``opentelemetry-instrumentation-dbapi`` (L3).

The application gets a proxy of each connection. The proxy is what is tracked: the driver's own object may not
be weakly referenceable, or may be kept alive by a cycle of its own. What `request` remembers is hooked while
the instrumentation runs, whether it was started before or is started later.
"""

from __future__ import annotations

import functools
import importlib
import logging
import weakref
from collections.abc import Collection
from types import ModuleType
from typing import Any, Final

from otel_connleak import pep249
from otel_connleak.call_hooks import METHODS
from otel_connleak.connection import Tracked
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.native import RLock
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.version import __version__

_logger = logging.getLogger(INSTRUMENTATION)

_CONTRIB: Final = "opentelemetry.instrumentation.dbapi"
_SOURCE: Final = "dbapi"

_requested: dict[ModuleType, str | None] = {}


def request(module: ModuleType, system: str | None) -> None:
    """Remember that a module is to be traced. A second request changes nothing.

    Raises:
        TypeError: it has no function ``connect``.
        ImportError: ``opentelemetry-instrumentation-dbapi`` is not installed.
    """
    if not callable(getattr(module, "connect", None)):
        raise TypeError(f"trace_dbapi needs a DB-API 2.0 module: {module!r} has no function connect")
    try:
        importlib.import_module(_CONTRIB)
    except ImportError as error:
        raise ImportError(
            "trace_dbapi needs a package that is missing: pip install opentelemetry-instrumentation-dbapi"
        ) from error
    _requested.setdefault(module, system)


def withdraw(module: ModuleType) -> None:
    """Forget a request."""
    _requested.pop(module, None)


class TracedModules:
    """The modules that are traced while the instrumentation runs.

    Args:
        registry: is told of the holds.
        providers: ``tracer_provider`` and ``meter_provider`` are for the query spans.
    """

    def __init__(self, registry: Registry, providers: dict[str, Any]) -> None:
        self._registry = registry
        self._providers = {name: providers.get(name) for name in ("tracer_provider", "meter_provider")}
        self._with_adapter: Collection[str] = ()
        self._traced: dict[ModuleType, _TracedModule] = {}
        self._lock = RLock()

    def start(self, with_adapter: Collection[str]) -> None:
        """Trace what was requested so far, but for what is in the packages that have an adapter."""
        self._with_adapter = with_adapter
        for module in list(_requested):
            self.trace(module)

    def trace(self, module: ModuleType) -> None:
        """Trace a module that was requested. Idempotent; never raises."""
        package = module.__name__.partition(".")[0]
        if package in self._with_adapter:
            _logger.warning(
                "trace_dbapi(%s) does nothing: there is an adapter for %s, which sees its connections anyway",
                module.__name__,
                package,
            )
            return
        with self._lock:
            if module in self._traced or module not in _requested:
                return
            system = _requested[module]
            traced = _TracedModule(module, system, self._registry, self._providers)
            try:
                traced.install()
                self._traced[module] = traced
            except Exception as error:
                traced.uninstall()
                _logger.error("%s cannot be traced: %s: %s", module.__name__, type(error).__name__, error)

    def untrace(self, module: ModuleType) -> None:
        """Give back the module's own functions. Idempotent."""
        with self._lock:
            traced = self._traced.pop(module, None)
            if traced is not None:
                traced.uninstall()

    def stop(self) -> None:
        """Give back the functions of all modules."""
        for module in list(self._traced):
            self.untrace(module)

    def after_fork(self) -> None:
        """Begin anew in a forked child: a lock may be held by a thread that is not here."""
        self._lock = RLock()
        for traced in self._traced.values():
            traced.after_fork()


class _TracedModule:
    """Hooks ``connect`` of one module, and ``close`` of its classes of connections where they allow it."""

    def __init__(
        self,
        module: ModuleType,
        system: str | None,
        registry: Registry,
        providers: dict[str, Any],
    ) -> None:
        self._module = module
        self._system = system
        self._registry = registry
        self._providers = providers
        self._patches = Patches()
        self._hooks = Hooks(_SOURCE, registry, self._patches)
        self._proxies: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._tells_close: dict[type, bool] = {}
        self._lock = RLock()

    def install(self) -> None:
        """Hook ``connect``."""
        from otel_connleak.otel.dbapi_proxies import Told, TracedConnection  # its base classes may be missing

        self._proxy_class = TracedConnection
        calls = self._hooks.calls
        self._told = Told(
            lambda: self._patches.active,
            calls(_call, pep249.transaction),
            calls(_query, pep249.transaction, statement=True),
            {name: calls(_call, pep249.transaction, verb=verb) for name, verb in METHODS.items()},
            self._hooks.releases(_close),
            self._left,
        )
        self._patches.replace(self._module, "connect", self._connect)

    def uninstall(self) -> None:
        """Give back the identical functions; the proxies pass everything through, what is held is over."""
        with self._lock:
            self._patches.undo()
            proxies = list(self._proxies.values())
        for proxy in proxies:
            hold = self._registry.hold_of(proxy)
            if hold is not None and hold.source == _SOURCE:
                self._registry.over(hold)  # nobody would see its release

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self._lock = RLock()

    def _connect(self, original: Any) -> Any:
        arguments_of = pep249.arguments_of(original)

        @functools.wraps(original)
        def connect(*args: Any, **kwargs: Any) -> Any:
            connection = original(*args, **kwargs)
            try:
                return self._proxy(connection, arguments_of(args, kwargs))
            except Exception:
                failed(f"{self._module.__name__}.connect")
                return connection

        # What a pool of another library gets is a proxy too, which tells of calls; it is no hold of ours.
        return self._hooks.acquires(connect, self._track, self._proxied, direct=True)

    def _proxy(self, connection: Any, arguments: dict[str, Any]) -> Any:
        """The proxy of a new connection."""
        from opentelemetry.instrumentation import dbapi as contrib

        if type(connection) is contrib.TracedConnectionProxy:
            # Traced by somebody else as well: theirs are the query spans then, with the settings they chose.
            integration = connection._self_db_api_integration
            connection = connection.__wrapped__
        else:
            integration = contrib.DatabaseApiIntegration(
                f"{INSTRUMENTATION}.dbapi",
                self._system or pep249.SYSTEM,
                version=__version__,
                connect_module=self._module,  # type: ignore[arg-type]  # annotated wrongly there: it is a module
                **self._providers,
            )
            integration.get_connection_attributes(connection)
        self._hook_close(type(connection))
        facts = pep249.facts(connection, self._system, arguments)
        proxy = self._proxy_class(connection, integration, self._told, facts)
        self._proxies[id(connection)] = proxy
        return proxy

    def _proxied(self, connection: Any) -> Any:
        """The proxy that ``connect`` has returned; None if we have failed to make it."""
        return connection if type(connection) is self._proxy_class else None

    def _track(self, proxy: Any, *_: Any) -> Tracked:
        return self._registry.track(proxy, proxy._self_facts, pep249.transaction, None)

    def _hook_close(self, cls: Any) -> None:
        """Hook ``close`` of a class: in a ``with`` block, and in an error, the driver calls it itself.

        The classes that are written in C do not let it be replaced.
        """
        with self._lock:
            if cls in self._tells_close or not self._patches.active:
                return
            owner = next(base for base in cls.__mro__ if "close" in vars(base))
            try:
                self._patches.replace(owner, "close", self._drivers_close)
                self._tells_close[cls] = True
            except TypeError:
                self._tells_close[cls] = False

    def _drivers_close(self, original: Any) -> Any:
        return self._hooks.releases(original, self._proxy_of)

    def _proxy_of(self, connection: Any) -> Any:
        return self._proxies.get(id(connection))

    def _left(self, proxy: Any) -> None:
        """A ``with`` block has been left: there are modules that close the connection then, most commit."""
        try:
            connection = proxy.__wrapped__
            if self._tells_close.get(type(connection), True) or not pep249.is_closed(connection):
                return
            hold = self._registry.release(_SOURCE, proxy)
            if hold is not None:
                self._registry.released(hold)
        except Exception:
            failed(f"{self._module.__name__} __exit__")


def _call(_proxy: Any, method: Any, args: Any, kwargs: Any) -> Any:
    return method(*args, **kwargs)


def _query(_proxy: Any, _statement: Any, method: Any, args: Any, kwargs: Any) -> Any:
    return method(*args, **kwargs)


def _close(proxy: Any, *args: Any, **kwargs: Any) -> Any:
    return proxy.__wrapped__.close(*args, **kwargs)
