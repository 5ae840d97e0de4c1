"""One MongoDB-wire server, from Maven artifacts, for tests and for a single machine."""
