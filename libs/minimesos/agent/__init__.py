"""The agent: executors, their tasks and status updates, and what it remembers over a restart."""
