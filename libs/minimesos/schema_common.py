"""The messages of mesos.v1 that both APIs share, as tables for `schema.py`.

Field names, numbers and defaults are Mesos' interface (include/mesos/v1/mesos.proto of 1.12).
"""

from __future__ import annotations

TASK_STATES = (
    "TASK_STAGING TASK_STARTING TASK_RUNNING TASK_KILLING TASK_FINISHED TASK_FAILED TASK_KILLED "
    "TASK_ERROR TASK_LOST TASK_DROPPED TASK_UNREACHABLE TASK_GONE TASK_GONE_BY_OPERATOR TASK_UNKNOWN"
)
_TERMINAL = (
    "TASK_FINISHED TASK_FAILED TASK_KILLED TASK_ERROR TASK_LOST TASK_DROPPED TASK_GONE "
    "TASK_GONE_BY_OPERATOR"
)
TERMINAL_STATES = frozenset(_TERMINAL.split())

ENUMS = {
    "TaskState": TASK_STATES,
    "Source": "SOURCE_MASTER SOURCE_AGENT SOURCE_EXECUTOR",
    "Reason": (
        "REASON_COMMAND_EXECUTOR_FAILED REASON_CONTAINER_LAUNCH_FAILED REASON_CONTAINER_LIMITATION "
        "REASON_CONTAINER_LIMITATION_DISK REASON_CONTAINER_LIMITATION_MEMORY "
        "REASON_CONTAINER_PREEMPTED REASON_CONTAINER_UPDATE_FAILED REASON_EXECUTOR_REGISTRATION_TIMEOUT "
        "REASON_EXECUTOR_REREGISTRATION_TIMEOUT REASON_EXECUTOR_TERMINATED "
        "REASON_EXECUTOR_UNREGISTERED REASON_FRAMEWORK_REMOVED REASON_GC_ERROR "
        "REASON_INVALID_FRAMEWORKID REASON_INVALID_OFFERS REASON_IO_SWITCHBOARD_EXITED "
        "REASON_MASTER_DISCONNECTED REASON_RECONCILIATION REASON_RESOURCES_UNKNOWN "
        "REASON_AGENT_DISCONNECTED REASON_AGENT_DRAINING REASON_AGENT_REMOVED "
        "REASON_AGENT_REMOVED_BY_OPERATOR REASON_AGENT_REREGISTERED REASON_AGENT_RESTARTED "
        "REASON_AGENT_UNKNOWN REASON_TASK_CHECK_STATUS_UPDATED REASON_TASK_HEALTH_CHECK_STATUS_UPDATED "
        "REASON_TASK_GROUP_INVALID REASON_TASK_GROUP_UNAUTHORIZED REASON_TASK_INVALID "
        "REASON_TASK_KILLED_DURING_LAUNCH REASON_TASK_UNAUTHORIZED REASON_TASK_UNKNOWN "
        "REASON_MAX_COMPLETION_TIME_REACHED"
    ),
    "ValueType": "SCALAR RANGES SET TEXT",
    "ReservationType": "UNKNOWN STATIC DYNAMIC",
    "ExecutorType": "UNKNOWN DEFAULT CUSTOM",
    "VariableType": "UNKNOWN VALUE SECRET",
    "ContainerType": "DOCKER MESOS",
    "VolumeMode": "RW RO",
    "DockerNetwork": "HOST BRIDGE NONE USER",
    "CheckType": "UNKNOWN COMMAND HTTP TCP",
    "Capability": (
        "UNKNOWN REVOCABLE_RESOURCES TASK_KILLING_STATE GPU_RESOURCES SHARED_RESOURCES "
        "PARTITION_AWARE MULTI_ROLE RESERVATION_REFINEMENT REGION_AWARE"
    ),
    "Visibility": "FRAMEWORK CLUSTER EXTERNAL",
    "IpProtocol": "IPv4 IPv6",
    "ImageType": "APPC DOCKER",
    "DiskSourceType": "UNKNOWN PATH MOUNT BLOCK RAW",
    "SeccompOrRLimit": "UNKNOWN",
}

MESSAGES = {
    # ---- identifiers, times, labels
    "Id": "value!:str#1",
    "ContainerID": "value!:str#1 parent:ContainerID#2",
    "DurationInfo": "nanoseconds!:int#1",
    "TimeInfo": "nanoseconds!:int#1",
    "Unavailability": "start!:TimeInfo#1 duration:DurationInfo#2",
    "MachineID": "hostname:str#1 ip:str#2",
    "Label": "key!:str#1 value:str#2",
    "Labels": "labels*:Label#1",
    "Parameter": "key!:str#1 value!:str#2",
    "Parameters": "parameter*:Parameter#1",
    # ---- values and resources
    "Scalar": "value!:double#1",
    "Range": "begin!:int#1 end!:int#2",
    "Ranges": "range*:Range#1",
    "Set": "item*:str#1",
    "Text": "value!:str#1",
    "Attribute": "name!:str#1 type!:ValueType#2 scalar:Scalar#3 ranges:Ranges#4 set:Set#6 text:Text#5",
    "AllocationInfo": "role:str#1",
    "ReservationInfo": "type:ReservationType#4 role:str#3 principal:str#1 labels:Labels#2",
    "Persistence": "id!:str#1 principal:str#2",
    "DiskPath": "root:str#1",
    "DiskSource": "type!:DiskSourceType#1 path:DiskPath#2 mount:DiskPath#3 id:str#4 "
    "metadata:Labels#5 profile:str#6 vendor:str#7",
    "DiskInfo": "persistence:Persistence#1 volume:Volume#2 source:DiskSource#3",
    "Empty": "",
    "Resource": (
        "provider_id:Id#12 name!:str#1 type!:ValueType#2 scalar:Scalar#3 ranges:Ranges#4 set:Set#5 "
        "role:str#6 allocation_info:AllocationInfo#11 reservation:ReservationInfo#8 "
        "reservations*:ReservationInfo#13 disk:DiskInfo#7 revocable:Empty#9 shared:Empty#10"
    ),
    # ---- commands and containers
    "URI": "value!:str#1 executable:bool#2 extract:bool=true#3 cache:bool#4 output_file:str#5",
    "Secret": "type:str#1 value:Empty#3",
    "Variable": "name!:str#1 type:VariableType=VALUE#3 value:str#2 secret:Secret#4",
    "Environment": "variables*:Variable#1",
    "CommandInfo": "uris*:URI#1 environment:Environment#2 shell:bool=true#6 value:str#3 "
    "arguments*:str#7 user:str#5",
    "Image": "type!:ImageType#1 docker:DockerImage#3 cached:bool=true#4",
    "DockerImage": "name!:str#1",
    "VolumeSource": "type:str#1 docker_volume:DockerVolume#2",
    "DockerVolume": "driver:str#1 name!:str#2 driver_options:Parameters#3",
    "Volume": "mode!:VolumeMode#3 container_path!:str#1 host_path:str#2 image:Image#4 "
    "source:VolumeSource#5",
    "PortMapping": "host_port!:int#1 container_port!:int#2 protocol:str#3",
    "NetPortMapping": "host_port!:int#1 container_port!:int#2 protocol:str#3",
    "DockerInfo": "image!:str#1 network:DockerNetwork=HOST#2 port_mappings*:PortMapping#3 "
    "privileged:bool=false#4 parameters*:Parameter#5 force_pull_image:bool#6 volume_driver:str#7",
    "MesosInfo": "image:Image#1",
    "IPAddress": "protocol:IpProtocol#1 ip_address:str#2",
    "NetworkInfo": "ip_addresses*:IPAddress#5 name:str#6 groups*:str#3 labels:Labels#4 "
    "port_mappings*:NetPortMapping#7",
    "CapabilityInfo": "capabilities*:str#1",
    "LinuxInfo": "capability_info:CapabilityInfo#1 bounding_capabilities:CapabilityInfo#2 "
    "effective_capabilities:CapabilityInfo#3 share_pid_namespace:bool#4",
    "RLimit": "type:str#1 hard:int#2 soft:int#3",
    "RLimitInfo": "rlimits*:RLimit#1",
    "WindowSize": "rows!:int#1 columns!:int#2",
    "TTYInfo": "window_size:WindowSize#1",
    "ContainerInfo": "type!:ContainerType#1 volumes*:Volume#2 hostname:str#4 docker:DockerInfo#3 "
    "mesos:MesosInfo#5 network_infos*:NetworkInfo#7 linux_info:LinuxInfo#8 rlimit_info:RLimitInfo#9 "
    "tty_info:TTYInfo#10",
    # ---- checks, discovery, policies
    "HttpCheck": "protocol:IpProtocol#5 scheme:str#3 port!:int#1 path:str#2 statuses*:int#4",
    "TcpCheck": "protocol:IpProtocol#2 port!:int#1",
    "HealthCheck": (
        "delay_seconds:double=15.0#2 interval_seconds:double=10.0#3 timeout_seconds:double=20.0#4 "
        "consecutive_failures:int=3#5 grace_period_seconds:double=10.0#6 type:CheckType#8 "
        "command:CommandInfo#7 http:HttpCheck#1 tcp:TcpCheck#9"
    ),
    "CommandCheck": "command!:CommandInfo#1",
    "HttpCheckInfo": "port!:int#1 path:str#2",
    "CheckInfo": (
        "type:CheckType#1 command:CommandCheck#2 http:HttpCheckInfo#3 tcp:TcpCheck#7 "
        "delay_seconds:double=15.0#4 interval_seconds:double=10.0#5 timeout_seconds:double=20.0#6"
    ),
    "KillPolicy": "grace_period:DurationInfo#1",
    "Port": "number!:int#1 name:str#2 protocol:str#3 visibility:Visibility#4 labels:Labels#5",
    "Ports": "ports*:Port#1",
    "DiscoveryInfo": "visibility!:Visibility#1 name:str#2 environment:str#3 location:str#4 "
    "version:str#5 ports:Ports#6 labels:Labels#7",
    # ---- executors and tasks
    "ExecutorInfo": (
        "type:ExecutorType#15 executor_id!:Id#1 framework_id:Id#8 command:CommandInfo#7 "
        "container:ContainerInfo#11 resources*:Resource#5 name:str#9 source:str#10 data:bytes#4 "
        "discovery:DiscoveryInfo#12 shutdown_grace_period:DurationInfo#13 labels:Labels#14"
    ),
    "TaskInfo": (
        "name!:str#1 task_id!:Id#2 agent_id!:Id#3 resources*:Resource#4 limits%:Scalar#16 "
        "executor:ExecutorInfo#5 command:CommandInfo#7 container:ContainerInfo#9 "
        "health_check:HealthCheck#8 check:CheckInfo#13 kill_policy:KillPolicy#12 data:bytes#6 "
        "labels:Labels#10 discovery:DiscoveryInfo#11 max_completion_time:DurationInfo#14"
    ),
    "TaskGroupInfo": "tasks*:TaskInfo#1",
    "CommandStatus": "exit_code:int#1",
    "HttpStatus": "status_code:int#1",
    "TcpStatus": "succeeded:bool#1",
    "CheckStatusInfo": "type:CheckType#1 command:CommandStatus#2 http:HttpStatus#3 tcp:TcpStatus#4",
    "ContainerStatus": "container_id:ContainerID#4 network_infos*:NetworkInfo#1 executor_pid:int#3",
    "TaskStatus": (
        "task_id!:Id#1 state!:TaskState#2 message:str#4 source:Source#9 reason:Reason#10 data:bytes#3 "
        "agent_id:Id#5 executor_id:Id#7 timestamp:double#6 uuid:bytes#11 healthy:bool#8 "
        "check_status:CheckStatusInfo#15 labels:Labels#12 container_status:ContainerStatus#13 "
        "unreachable_time:TimeInfo#14"
    ),
    # ---- frameworks
    "FrameworkCapability": "type:Capability#1",
    "MinAllocatable": "quantities%:Scalar#1",
    "MinAllocatables": "quantities*:MinAllocatable#1",
    "OfferFilter": "min_allocatable_resources:MinAllocatables#1",
    "FrameworkInfo": (
        "user!:str#1 name!:str#2 id:Id#3 failover_timeout:double=0.0#4 checkpoint:bool=false#5 "
        "role:str#6 roles*:str#12 hostname:str#7 principal:str#8 webui_url:str#9 "
        "capabilities*:FrameworkCapability#10 labels:Labels#11 offer_filters%:OfferFilter#13"
    ),
    "Filters": "refuse_seconds:double=5.0#1",
}
