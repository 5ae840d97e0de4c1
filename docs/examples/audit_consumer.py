"""Tells who asked Gantry for what, and what came of it: a JSON line an event. Needs Python and aiokafka only."""

import asyncio
import json
import os
import ssl
import sys
from collections import OrderedDict

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

PREFIX = os.environ.get("TOPIC_PREFIX", "")  # of clusters that share a Kafka
NEEDED = ("ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_sequence")
REMEMBERED = 100_000
told = OrderedDict()  # ce_id of what was told
newest = OrderedDict()  # ce_sequence, by writer and subject


def door():
    """How to get in: as KAFKA_USER by SASL over TLS (the broker's authority: KAFKA_CAFILE), or as anybody."""
    user = os.environ.get("KAFKA_USER")
    if not user:
        return {}
    with open(os.environ["KAFKA_PASSWORD_FILE"]) as file:
        password = file.readline().strip()
    return {
        "security_protocol": "SASL_SSL",
        "ssl_context": ssl.create_default_context(cafile=os.environ.get("KAFKA_CAFILE")),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": user,
        "sasl_plain_password": password,
    }


def remember(memory, key, value=True):
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def read(message):
    """The event as a dict; None for what is none of Gantry's, was told already, or is older than what was."""
    topic = message.topic.removeprefix(PREFIX)
    event = {name: value.decode(errors="replace") for name, value in message.headers}
    if any(name not in event for name in NEEDED) or event["ce_type"] != f"gantry.{topic}.v1":
        print(f"skipped {topic} {message.partition}:{message.offset}", file=sys.stderr)
        return None
    writer_and_subject = (event["ce_source"], event["ce_subject"])
    sequence = int(event["ce_sequence"])
    # Deployments are states: an older one says nothing new. Each line of the audit trail counts.
    old = topic != "audit.recorded" and sequence < newest.get(writer_and_subject, 0)
    if old or event["ce_id"] in told:
        return None
    remember(told, event["ce_id"])
    if topic != "audit.recorded":
        remember(newest, writer_and_subject, sequence)
    return {**{name: event[name] for name in NEEDED}, "data": json.loads(message.value)}


async def main():
    consumer = AIOKafkaConsumer(
        bootstrap_servers=os.environ["KAFKA"],
        **door(),
        group_id=os.environ["GROUP"],  # your own: it shares nothing with Gantry's groups
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    consumer.subscribe(pattern=f"^{PREFIX}(audit[.]recorded|deploy[.][a-z_]+)$")
    async with consumer:
        while True:
            batches = await consumer.getmany(timeout_ms=1000, max_records=500)
            for event in filter(None, (read(each) for batch in batches.values() for each in batch)):
                print(json.dumps(event), flush=True)  # here goes what you do with it
            try:
                if batches:
                    await consumer.commit()  # only now: what is not done comes again
            except CommitFailedError:
                pass  # partitions have moved on: another member of the group tells these again


if __name__ == "__main__":
    asyncio.run(main())
