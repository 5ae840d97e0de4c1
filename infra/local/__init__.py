"""Gantry on one machine: the servers it stands on, its processes, and an edge to reach the VLANs from.

`Stack` (in `stack.py`) starts and stops all of it; `gantry up`, the demo, the end-to-end tests
and the benchmarks use it.
"""
