"""A shop on Django: correct views, and some that leave a connection or a transaction behind."""
