"""Runs of jobs: several tasks in one container, each in a cell of its own (`native/gantry-init.c`)."""
