"""A release that does not exist yet, for tests of two at a time."""
