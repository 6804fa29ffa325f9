"""Placeholder."""


class AiomysqlAdapter:
    """Placeholder."""

    module = "no_such_module_aiomysql"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
