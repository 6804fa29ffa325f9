"""A small application: its functions acquire connections, and some do not give them back."""
