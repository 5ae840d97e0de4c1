"""Whether a Mesos behaves as a real Mesos 1.12 did when its exchanges were recorded.

`fixtures/` holds the recorded exchanges, `scenarios.py` says how each is played, `replay.py` plays
it, `compare.py` compares field by field, `allowed.py` is the one table of allowed differences.

By default the suite runs against a minimesos started for it. Against another Mesos:
    GANTRY_TEST_MESOS=http://host:5050 GANTRY_TEST_MESOS_AGENT=http://host:5051 pytest tests/contract/mesos
It must have exactly one agent and no other framework. Scenarios that kill processes or need flags of
their own are deselected there, each with its reason in the summary; those that run executors need
the agent on this machine.
"""
