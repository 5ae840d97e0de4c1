#!/usr/bin/env bash
# usage: boxed.sh COMMAND...   COMMAND with interfaces, /sys and /run of its own, so that it may have an Open vSwitch of its own.
# Only loopback: nothing in it reaches another host.
set -euo pipefail
exec unshare --net --mount --propagation private bash -euc '
groups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$groups"
mount -t sysfs sysfs /sys
mount --move "$groups" /sys/fs/cgroup
rmdir "$groups"
mount -t tmpfs tmpfs /run
mount --make-shared /run
mkdir /run/lock
ip link set lo up
exec "$@"' boxed "$@"
