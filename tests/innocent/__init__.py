"""Application code that looks as if it leaked and does not: what must never be reported."""
