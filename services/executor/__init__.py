"""The executor: containers of one host, on behalf of Mesos.

`supervisor` is the process that Mesos sees; `worker` does the work and may be killed or replaced at any time.
This package and `supervisor` import the standard library only, so that the supervisor starts fast and stays small.
"""
