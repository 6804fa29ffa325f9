"""Placeholder."""


class SQLAlchemyAdapter:
    """Placeholder."""

    module = "no_such_module_sqlalchemy"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
