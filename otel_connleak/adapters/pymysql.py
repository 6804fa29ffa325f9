"""Placeholder."""


class PyMySQLAdapter:
    """Placeholder."""

    module = "no_such_module_pymysql"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
