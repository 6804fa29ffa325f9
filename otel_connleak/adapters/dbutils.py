"""Placeholder."""


class DBUtilsAdapter:
    """Placeholder."""

    module = "no_such_module_dbutils"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
