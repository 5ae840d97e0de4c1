"""One ZooKeeper server, from the distribution's package, for tests and for a single machine."""
