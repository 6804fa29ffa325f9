"""The application modules of the corpus, one theme a file, with the truth beside them (``.toml``)."""
