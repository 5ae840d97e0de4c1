"""What can go wrong when a server is provided.

ProvisionError
├── MissingToolError     a program or file is not on this machine: infra/host/setup.sh brings it
├── CommandError         a command failed or took too long; carries the end of its output
├── NotReadyError        a server was started but did not answer within its deadline
│   └── PortTakenError   because somebody else listens on its port
├── NotStoppedError      a process outlived TERM and KILL
└── NotOursError         the server runs elsewhere: it can be used, not killed, paused or restarted
"""

from __future__ import annotations


class ProvisionError(Exception):
    """Base of everything infra.provision raises on purpose."""


class MissingToolError(ProvisionError):
    """A program or file that the host set-up should have brought is not there."""


class CommandError(ProvisionError):
    """A command ended with a non-zero status, or not in time."""


class NotReadyError(ProvisionError):
    """The server did not become usable within its deadline."""


class PortTakenError(NotReadyError):
    """The server's port belongs to somebody else."""


class NotStoppedError(ProvisionError):
    """A process is still there after KILL."""


class NotOursError(ProvisionError):
    """Asked to stop or disturb a server that was only lent to us."""
