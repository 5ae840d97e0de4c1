"""/metrics/snapshot of the master, under Mesos' own keys."""

from __future__ import annotations

from collections.abc import Iterator

from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Framework
from libs.minimesos.master.tasks import tasks_by_state

_COUNTERS = [
    "dropped_messages",
    "invalid_executor_to_framework_messages",
    "invalid_framework_to_executor_messages",
    "invalid_operation_status_update_acknowledgements",
    "invalid_operation_status_updates",
    "invalid_status_update_acknowledgements",
    "invalid_status_updates",
    "messages_authenticate",
    "messages_deactivate_framework",
    "messages_decline_offers",
    "messages_executor_to_framework",
    "messages_exited_executor",
    "messages_framework_to_executor",
    "messages_kill_task",
    "messages_launch_tasks",
    "messages_operation_status_update",
    "messages_operation_status_update_acknowledgement",
    "messages_reconcile_operations",
    "messages_reconcile_tasks",
    "messages_register_framework",
    "messages_register_slave",
    "messages_reregister_framework",
    "messages_reregister_slave",
    "messages_resource_request",
    "messages_revive_offers",
    "messages_status_update",
    "messages_status_update_acknowledgement",
    "messages_suppress_offers",
    "messages_unregister_framework",
    "messages_unregister_slave",
    "messages_update_slave",
    "recovery_slave_removals",
    "slave_registrations",
    "slave_removals",
    "slave_removals/reason_registered",
    "slave_removals/reason_unhealthy",
    "slave_removals/reason_unregistered",
    "slave_reregistrations",
    "slave_shutdowns_canceled",
    "slave_shutdowns_completed",
    "slave_shutdowns_scheduled",
    "slave_unreachable_canceled",
    "slave_unreachable_completed",
    "slave_unreachable_scheduled",
    "valid_executor_to_framework_messages",
    "valid_framework_to_executor_messages",
    "valid_operation_status_update_acknowledgements",
    "valid_operation_status_updates",
    "valid_status_update_acknowledgements",
    "valid_status_updates",
]
_OPERATIONS = [
    "create",
    "create_disk",
    "destroy",
    "destroy_disk",
    "grow_volume",
    "reserve",
    "shrink_volume",
    "unreserve",
]
_OPERATION_STATES = [
    "dropped",
    "error",
    "failed",
    "finished",
    "gone_by_operator",
    "pending",
    "recovering",
    "total",
    "unreachable",
]
_ENDS = ["dropped", "error", "failed", "finished", "gone", "gone_by_operator", "killed", "lost"]
_CALLS = [
    "accept",
    "accept_inverse_offers",
    "acknowledge",
    "acknowledge_operation_status",
    "decline",
    "decline_inverse_offers",
    "kill",
    "message",
    "reconcile",
    "reconcile_operations",
    "request",
    "revive",
    "shutdown",
    "subscribe",
    "suppress",
    "teardown",
    "update_framework",
]
_EVENTS = [
    "error",
    "failure",
    "heartbeat",
    "inverse_offers",
    "message",
    "offers",
    "rescind",
    "rescind_inverse_offer",
    "subscribed",
    "update",
    "update_operation_status",
]
_FRAMEWORK_ENDS = [
    "task_dropped",
    "task_error",
    "task_failed",
    "task_finished",
    "task_gone",
    "task_gone_by_operator",
    "task_killed",
    "task_lost",
]
_FRAMEWORK_ACTIVE = [
    "task_killing",
    "task_running",
    "task_staging",
    "task_starting",
    "task_unknown",
    "task_unreachable",
]


def snapshot(core: Core) -> dict[str, float]:
    """All metrics by key, sorted. Counters begin at zero with each master."""
    out: dict[str, float] = {}
    for name in _COUNTERS:
        out[f"master/{name}"] = float(core.counters[name])
    out.update(_resources(core))
    out.update(_population(core))
    out.update(_operations(core))
    out.update(_tasks(core))
    for framework in core.state.frameworks.values():
        out.update(_framework(core, framework))
    out.update(_allocator(core))
    out["registrar/log/recovered"] = 1.0
    out["registrar/queued_operations"] = 0.0
    out["registrar/registry_size_bytes"] = float(200 * len(core.registry.agents))
    out["registrar/state_fetch_ms"] = 0.0
    out["registrar/state_store_ms"] = 0.0
    out.update(core.host.read().metrics())
    return dict(sorted(out.items()))


def _resources(core: Core) -> Iterator[tuple[str, float]]:
    agents = core.state.agents.values()
    for name in ("cpus", "gpus", "mem", "disk"):
        total = sum(a.total.scalar(name) for a in agents if a.active)
        used = round(sum(a.used.scalar(name) for a in agents), 3)
        yield f"master/{name}_total", total
        yield f"master/{name}_used", used
        yield f"master/{name}_percent", used / total if total else 0.0
        for what in ("total", "used", "percent"):
            yield f"master/{name}_revocable_{what}", 0.0


def _population(core: Core) -> Iterator[tuple[str, float]]:
    frameworks = core.state.frameworks.values()
    agents = core.state.agents.values()
    yield "master/elected", float(core.config.leads)
    yield "master/uptime_secs", core.now - core.state.start_time
    yield "master/frameworks_active", float(sum(f.active for f in frameworks))
    yield "master/frameworks_inactive", float(sum(not f.active for f in frameworks))
    yield "master/frameworks_connected", float(sum(f.connected for f in frameworks))
    yield "master/frameworks_disconnected", float(sum(not f.connected for f in frameworks))
    yield "master/slaves_active", float(sum(a.active for a in agents))
    yield "master/slaves_inactive", float(sum(not a.active for a in agents))
    yield "master/slaves_connected", float(sum(a.connected for a in agents))
    yield "master/slaves_disconnected", float(sum(not a.connected for a in agents))
    yield "master/slaves_unreachable", float(len(core.registry.unreachable))
    yield "master/outstanding_offers", float(len(core.state.offers))
    yield "master/operator_event_stream_subscribers", float(len(core.operator_streams))
    for queue in ("dispatches", "http_requests", "messages"):
        yield f"master/event_queue_{queue}", 0.0


def _operations(core: Core) -> Iterator[tuple[str, float]]:
    for state in _OPERATION_STATES:
        per_kind = [core.counters[f"operations/{kind}/{state}"] for kind in _OPERATIONS]
        yield f"master/operations/{state}", float(sum(per_kind))
        for kind, count in zip(_OPERATIONS, per_kind, strict=True):
            yield f"master/operations/{kind}/{state}", float(count)


def _tasks(core: Core) -> Iterator[tuple[str, float]]:
    for state, count in tasks_by_state(core).items():
        yield f"master/{state.lower().replace('task_', 'tasks_')}", float(count)
    for end in _ENDS:
        yield f"master/tasks_{end}", float(core.counters[f"task_{end}"])
    for name, count in core.counters.items():
        if name.startswith("task_") and "/" in name:
            yield f"master/{name}", float(count)


def _framework(core: Core, framework: Framework) -> Iterator[tuple[str, float]]:
    prefix = f"master/frameworks/{framework.info['name']}/{framework.id}"
    counters = framework.counters
    for group, names in (("calls", _CALLS), ("events", _EVENTS), ("operations", _OPERATIONS)):
        every = [f"{group}/{name}" for name in names]
        yield f"{prefix}/{group}", float(sum(counters[name] for name in every))
        for name in every:
            yield f"{prefix}/{name}", float(counters[name])
    for name in ("launch", "launch_group"):
        yield f"{prefix}/operations/{name}", float(counters[f"operations/{name}"])
    for name in ("accepted", "declined", "rescinded", "sent"):
        yield f"{prefix}/offers/{name}", float(counters[f"offers/{name}"])
    yield f"{prefix}/subscribed", float(framework.connected)
    suppressed = core.allocator.suppressed(framework.id)
    for role in framework.roles:
        yield f"{prefix}/roles/{role}/suppressed", float(role in suppressed)
    states = [task.state.lower() for task in framework.tasks.values()]
    for name in _FRAMEWORK_ACTIVE:
        count = states.count(name)
        count += len(framework.unreachable) if name == "task_unreachable" else 0
        yield f"{prefix}/tasks/active/{name}", float(count)
    for name in _FRAMEWORK_ENDS:
        yield f"{prefix}/tasks/terminal/{name}", float(counters[f"tasks/terminal/{name}"])


def _allocator(core: Core) -> Iterator[tuple[str, float]]:
    allocator = core.allocator
    yield "allocator/event_queue_dispatches", 0.0
    yield "allocator/mesos/event_queue_dispatches", 0.0
    yield "allocator/mesos/allocation_runs", float(allocator.runs)
    totals = allocator.cluster_total()
    for name, total in totals.items():
        free = sum(allocator.free(agent_id).scalar(name) for agent_id in core.state.agents)
        yield f"allocator/mesos/resources/{name}/total", total
        held = round(total - free, 3)
        yield f"allocator/mesos/resources/{name}/offered_or_allocated", held
    roles = {role for framework in core.state.frameworks.values() for role in framework.roles}
    for role in sorted(roles):
        yield f"allocator/mesos/roles/{role}/shares/dominant", allocator.role_share(role)
        active = allocator.active_filters(role, core.now)
        yield f"allocator/mesos/offer_filters/roles/{role}/active", float(active)
