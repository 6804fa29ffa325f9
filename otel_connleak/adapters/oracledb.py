"""Placeholder."""


class OracledbAdapter:
    """Placeholder."""

    module = "no_such_module_oracledb"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
