"""One contract for all adapters, and what is particular to each library."""
