"""One Kafka broker, from Maven artifacts, for tests and for a single machine."""
