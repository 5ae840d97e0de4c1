"""The host daemon: network attachments, container stats and logs of its host.

It is a process of its own and survives the restart of everything else. `ARCHITECTURE.md` has the map.
"""
