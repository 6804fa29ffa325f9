"""Placeholder."""


class MySQLConnectorAdapter:
    """Placeholder."""

    module = "no_such_module_mysql_connector"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
