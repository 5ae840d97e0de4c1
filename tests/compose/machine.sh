#!/usr/bin/env bash
# Makes a machine of its own out of fresh namespaces (unshare --net --mount --pid --mount-proc): writable copies of /etc, /opt
# and /var/lib, an empty /run, interfaces, Open vSwitch and a Docker engine with bridges. Then runs a command there.
#
# usage: machine.sh ROOT COMMAND...     ROOT/engine/data has the engine's images
set -euo pipefail

readonly root=${1:?}
shift
readonly HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

mount --make-rprivate /
mkdir -p "$root"/{cgroup,up,work}
mount --rbind /sys/fs/cgroup "$root/cgroup"
mount -t sysfs sysfs /sys # this one shows the interfaces of here
mount --rbind "$root/cgroup" /sys/fs/cgroup
for each in etc opt var/lib; do
  mkdir -p "$root/up/$each" "$root/work/$each"
  mount -t overlay overlay -o "lowerdir=/$each,upperdir=$root/up/$each,workdir=$root/work/$each" "/$each"
done
mount -t tmpfs tmpfs /run
mount --make-shared /run
mkdir -p /run/lock /etc/docker

ip link set lo up
ip link add ctl type bridge && ip addr add 10.98.0.1/24 dev ctl && ip addr add 10.98.0.2/24 dev ctl
ip link set ctl up
ip link add trunk0 type veth peer name trunk1 && ip link set trunk0 up && ip link set trunk1 up

"$HERE/../../infra/host/ovs.sh" start --dir /run/openvswitch >/dev/null
sed 's/CONTROL_ADDRESS/10.98.0.1/' "$HERE/../../infra/compose/daemon.json" >/etc/docker/daemon.json
export DATA_ROOT=$root/engine/data
"$@"
