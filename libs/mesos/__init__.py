"""The Mesos v1 HTTP API as an asyncio client.

=================  ===================================================================
`recordio`         RecordIO framing, sans I/O
`messages`         TypedDicts of the JSON objects we use
`calls`            constructors of those objects and of the scheduler and executor calls
`events`           typed events of the three streams and their parsers
`subscription`     the life of one event stream as a state machine, sans I/O
`stream`           runs that machine over a `Transport`
`ports`            what is taken from outside: a `Transport`
`http`             the aiohttp face
`keepalive`        many calls over a few connections
`answers`          HTTP answers as bytes, sans I/O
`framework`        what a framework can do, through any client: `FrameworkClient`
`scheduler`        `SchedulerClient`, on asyncio
`pymesos_client`   `PymesosClient`, the same through pymesos
`pymesos_thread`   pymesos with its faults contained, in a thread of its own
`handover`         from that thread to the event loop, with a bound
`executor`         `ExecutorClient`
`environment`      what an agent tells its executor by MESOS_* variables
`operator`         `OperatorClient`
`errors`           one error tree
=================  ===================================================================

Source: the behaviour of Apache Mesos 1.12, recorded; see tests/contract/mesos.
"""
