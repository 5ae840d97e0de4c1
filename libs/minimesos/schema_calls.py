"""The calls of the scheduler, executor, master and agent APIs, as tables for `schema.py`."""

from __future__ import annotations

from libs.minimesos.schema import Schema
from libs.minimesos.schema_common import ENUMS, MESSAGES

_ENUMS = {
    "SchedulerCallType": (
        "SUBSCRIBE TEARDOWN ACCEPT DECLINE ACCEPT_INVERSE_OFFERS DECLINE_INVERSE_OFFERS REVIVE KILL "
        "SHUTDOWN ACKNOWLEDGE ACKNOWLEDGE_OPERATION_STATUS RECONCILE RECONCILE_OPERATIONS MESSAGE "
        "REQUEST SUPPRESS UPDATE_FRAMEWORK"
    ),
    "ExecutorCallType": "SUBSCRIBE UPDATE MESSAGE HEARTBEAT",
    "MasterCallType": (
        "GET_HEALTH GET_FLAGS GET_VERSION GET_METRICS GET_LOGGING_LEVEL LIST_FILES READ_FILE GET_STATE "
        "GET_AGENTS GET_FRAMEWORKS GET_EXECUTORS GET_OPERATIONS GET_TASKS GET_ROLES GET_WEIGHTS "
        "UPDATE_WEIGHTS GET_MASTER SUBSCRIBE RESERVE_RESOURCES UNRESERVE_RESOURCES CREATE_VOLUMES "
        "DESTROY_VOLUMES GET_MAINTENANCE_STATUS GET_MAINTENANCE_SCHEDULE UPDATE_MAINTENANCE_SCHEDULE "
        "START_MAINTENANCE STOP_MAINTENANCE GET_QUOTA UPDATE_QUOTA TEARDOWN MARK_AGENT_GONE DRAIN_AGENT "
        "DEACTIVATE_AGENT REACTIVATE_AGENT"
    ),
    "AgentCallType": (
        "GET_HEALTH GET_FLAGS GET_VERSION GET_METRICS GET_LOGGING_LEVEL LIST_FILES READ_FILE GET_STATE "
        "GET_CONTAINERS GET_FRAMEWORKS GET_EXECUTORS GET_OPERATIONS GET_TASKS GET_AGENT "
        "GET_RESOURCE_PROVIDERS ATTACH_CONTAINER_OUTPUT"
    ),
    "OperationType": "LAUNCH LAUNCH_GROUP RESERVE UNRESERVE CREATE DESTROY",
    "PseudoAttribute": "UNKNOWN HOSTNAME REGION ZONE",
}

_MESSAGES = {
    # ---- scheduler
    "ResourceList": "resources*:Resource#2",
    "VolumeList": "volumes*:Resource#1",
    "TaskInfos": "task_infos*:TaskInfo#1",
    "LaunchGroup": "executor!:ExecutorInfo#1 task_group!:TaskGroupInfo#2",
    "Operation": "type:OperationType#1 id:Id#12 launch:TaskInfos#2 launch_group:LaunchGroup#7 "
    "reserve:ResourceList#3 unreserve:ResourceList#4 create:VolumeList#5 destroy:VolumeList#6",
    "Selector": "attribute_name:str#2 pseudoattribute_type:PseudoAttribute#1",
    "Predicate": "exists:Empty#1 not_exists:Empty#2 text_equals:PredicateText#3 "
    "text_not_equals:PredicateText#4 text_matches:PredicateRegex#5 text_not_matches:PredicateRegex#6",
    "PredicateText": "value:str#1",
    "PredicateRegex": "regex:str#1",
    "AttributeConstraint": "selector:Selector#1 predicate:Predicate#2",
    "ConstraintGroup": "attribute_constraints*:AttributeConstraint#1",
    "RoleConstraints": "groups*:ConstraintGroup#1",
    "OfferConstraints": "role_constraints%:RoleConstraints#1",
    "Subscribe": "framework_info!:FrameworkInfo#1 force:bool#2 suppressed_roles*:str#3 "
    "offer_constraints:OfferConstraints#4",
    "UpdateFramework": "framework_info!:FrameworkInfo#1 suppressed_roles*:str#2 "
    "offer_constraints:OfferConstraints#3",
    "Accept": "offer_ids*:Id#1 operations*:Operation#2 filters:Filters#3",
    "Decline": "offer_ids*:Id#1 filters:Filters#2",
    "InverseOffers": "inverse_offer_ids*:Id#1 filters:Filters#2",
    "Roles": "roles*:str#1",
    "KillTask": "task_id!:Id#1 agent_id:Id#2 kill_policy:KillPolicy#3",
    "ShutdownExecutor": "executor_id!:Id#1 agent_id!:Id#2",
    "Acknowledge": "agent_id!:Id#1 task_id!:Id#2 uuid!:bytes#3",
    "AcknowledgeOperation": "agent_id:Id#1 resource_provider_id:Id#2 uuid!:bytes#3 operation_id!:Id#4",
    "ReconcileTask": "task_id!:Id#1 agent_id:Id#2",
    "Reconcile": "tasks*:ReconcileTask#1",
    "ReconcileOperation": "operation_id!:Id#1 agent_id:Id#2 resource_provider_id:Id#3",
    "ReconcileOperations": "operations*:ReconcileOperation#1",
    "FrameworkMessage": "agent_id!:Id#1 executor_id!:Id#2 data!:bytes#3",
    "ResourceRequest": "agent_id:Id#1 resources*:Resource#2",
    "Requests": "requests*:ResourceRequest#1",
    "SchedulerCall": (
        "framework_id:Id#1 type:SchedulerCallType#2 subscribe:Subscribe#3 accept:Accept#4 "
        "decline:Decline#5 accept_inverse_offers:InverseOffers#13 decline_inverse_offers:InverseOffers#14 "
        "revive:Roles#15 kill:KillTask#6 shutdown:ShutdownExecutor#7 acknowledge:Acknowledge#8 "
        "acknowledge_operation_status:AcknowledgeOperation#17 reconcile:Reconcile#9 "
        "reconcile_operations:ReconcileOperations#18 message:FrameworkMessage#10 request:Requests#11 "
        "suppress:Roles#16 update_framework:UpdateFramework#19"
    ),
    # ---- executor
    "ExecutorUpdate": "status!:TaskStatus#1",
    "ExecutorSubscribe": "unacknowledged_tasks*:TaskInfo#1 unacknowledged_updates*:ExecutorUpdate#2",
    "ExecutorMessage": "data!:bytes#2",
    "ExecutorCall": "executor_id!:Id#1 framework_id!:Id#2 type:ExecutorCallType#3 "
    "subscribe:ExecutorSubscribe#4 update:ExecutorUpdate#5 message:ExecutorMessage#6",
    # ---- operator
    "GetMetrics": "timeout:DurationInfo#1",
    "ListFiles": "path!:str#1",
    "ReadFile": "path!:str#1 offset!:int#2 length:int#3",
    "WeightInfo": "weight!:double#1 role:str#2",
    "UpdateWeights": "weight_infos*:WeightInfo#1",
    "AgentResources": "agent_id!:Id#1 resources*:Resource#2",
    "AgentVolumes": "agent_id!:Id#1 volumes*:Resource#2",
    "Window": "machine_ids*:MachineID#1 unavailability!:Unavailability#2",
    "MaintenanceSchedule": "windows*:Window#1",
    "UpdateSchedule": "schedule!:MaintenanceSchedule#1",
    "Machines": "machines*:MachineID#1",
    "QuotaConfig": "role!:str#1 guarantees%:Scalar#2 limits%:Scalar#3",
    "UpdateQuota": "force:bool#1 quota_configs*:QuotaConfig#2",
    "FrameworkRef": "framework_id!:Id#1",
    "AgentRef": "agent_id!:Id#1",
    "ProtobufDuration": "seconds:int#1 nanos:int#2",
    "DrainAgent": "agent_id!:Id#1 max_grace_period:ProtobufDuration#2 mark_gone:bool#3",
    "MasterCall": (
        "type:MasterCallType get_metrics:GetMetrics list_files:ListFiles read_file:ReadFile "
        "update_weights:UpdateWeights reserve_resources:AgentResources "
        "unreserve_resources:AgentResources create_volumes:AgentVolumes destroy_volumes:AgentVolumes "
        "update_maintenance_schedule:UpdateSchedule start_maintenance:Machines "
        "stop_maintenance:Machines update_quota:UpdateQuota teardown:FrameworkRef "
        "mark_agent_gone:AgentRef drain_agent:DrainAgent deactivate_agent:AgentRef "
        "reactivate_agent:AgentRef"
    ),
    "ContainerRef": "container_id!:ContainerID",
    "AgentCall": "type:AgentCallType get_metrics:GetMetrics list_files:ListFiles read_file:ReadFile "
    "attach_container_output:ContainerRef",
}

# Every task of a framework with one executor a host carries the same ExecutorInfo.
V1 = Schema({**ENUMS, **_ENUMS}, {**MESSAGES, **_MESSAGES}, frozenset({"ExecutorInfo"}))
SCHEDULER_CALL = V1["SchedulerCall"]
EXECUTOR_CALL = V1["ExecutorCall"]
MASTER_CALL = V1["MasterCall"]
AGENT_CALL = V1["AgentCall"]
EXECUTOR_INFO = V1["ExecutorInfo"]
TASK_INFO = V1["TaskInfo"]
