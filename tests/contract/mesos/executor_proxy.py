"""The process an agent starts as executor: it only lives, and does what the suite tells it to.

Run as `python executor_proxy.py HOST PORT` by the agent. It connects back to the suite, sends its
environment as one line of JSON, and obeys lines: `exit N`. The suite itself speaks the executor API
in its place, so that both sides of a recording are replayed from one place. It stands for the
supervisor of a real executor too: what Mesos sees lives on while its worker comes and goes.
"""

import json
import os
import socket
import sys


def main() -> int:
    """Live until told to exit, or until the suite is gone."""
    host, port = sys.argv[1], int(sys.argv[2])
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.settimeout(None)
        connection.sendall(
            json.dumps({"env": dict(os.environ), "pid": os.getpid()}).encode() + b"\n"
        )
        with connection.makefile("r") as lines:
            for line in lines:
                word, _, argument = line.strip().partition(" ")
                if word == "exit":
                    return int(argument)
    return 0


if __name__ == "__main__":
    sys.exit(main())
