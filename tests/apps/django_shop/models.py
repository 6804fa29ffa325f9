"""The tables of the shop, which a test has made."""

from django.db import models


class Customer(models.Model):
    """Somebody who buys."""

    name = models.TextField()

    class Meta:
        """It is there already."""

        db_table = "customers"
        managed = False
