"""The built-in executor for command tasks and task groups: a process of its own, standard library only."""
