"""All access to the database."""

from collections.abc import Iterator

from django.db import connection, transaction

from .models import Customer


class CustomerRepository:
    """Correct methods, and some that are not."""

    def list_customers(self) -> list[str]:
        """Correct."""
        return [customer.name for customer in Customer.objects.order_by("id")]

    def rename(self, name: str) -> None:
        """Correct: in a transaction of its own."""
        with transaction.atomic():
            Customer.objects.filter(id=1).update(name=name)

    def export(self) -> Iterator[str]:
        """Correct: reads while it is iterated over."""
        for customer in Customer.objects.order_by("id").iterator(chunk_size=1):
            yield customer.name

    def refresh(self) -> None:
        """Correct in a request; in a thread of its own it leaves a connection behind."""
        self.list_customers()

    def refresh_and_close(self) -> None:
        """Correct also in a thread of its own."""
        try:
            self.list_customers()
        finally:
            connection.close()

    def reserve(self) -> bool:
        """Never leaves its transaction."""
        block = transaction.atomic()
        block.__enter__()
        if Customer.objects.count() == 3:
            return False
        block.__exit__(None, None, None)
        return True
