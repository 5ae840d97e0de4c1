"""A Mesos master and agents that speak the v1 HTTP API: Gantry's embedded cluster engine.

`master/` and `agent/` are state machines without I/O: `handle(now, input)` returns effects,
`next_deadline()` says when to call again. Around them stand `face.py` (HTTP), `node.py` (clock
and disk), `launcher.py` (processes), `local.py` (one thread, no sockets: the simulation) and
`embedded.py` (everything in one process).

The facts it reproduces were recorded from Apache Mesos 1.12; they are quoted where they matter.
"""

MESOS_VERSION = "1.12.0"
