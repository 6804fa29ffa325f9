"""Placeholder."""


class Sqlite3Adapter:
    """Placeholder."""

    module = "no_such_module_sqlite3"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
