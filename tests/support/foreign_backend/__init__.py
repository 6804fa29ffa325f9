"""A backend of Django's, as third parties make them, for a driver that nothing here knows."""
