"""The master: frameworks, agents, offers, tasks and the operator's view of them."""
