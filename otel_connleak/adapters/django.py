"""Placeholder."""


class DjangoAdapter:
    """Placeholder."""

    module = "no_such_module_django"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""
