#!/usr/bin/env bash
# An Open vSwitch of our own, apart from the system's: own database, sockets and daemons. By
# default in userspace (netdev), which needs no kernel module. Either datapath is one for the whole
# network namespace (netdev's has a tap named ovs-netdev), so a second switch is refused: clusters
# on one host share a switch, each with a bridge of its own.
#
# usage: ovs.sh start --dir D [--datapath netdev|system]
#        ovs.sh stop --dir D [--purge]           --purge removes its bridges and the directory too
#        ovs.sh status --dir D
# start and status print "unix:D/db.sock", the OVSDB socket; the datapath type to give each bridge
# ("netdev" or "system") is in D/datapath-type; OVS_RUNDIR is D, pids in D/ovsdb-server.pid and
# D/ovs-vswitchd.pid, logs beside them. exit: 0 done/running; 1 failed; 2 wrong usage; 3 not running.
set -euo pipefail

SCRIPT_NAME=ovs
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/lib.sh"
readonly READY_S=20 STOP_S=10
readonly SCHEMA=/usr/share/openvswitch/vswitch.ovsschema

dir='' purge=0 datapath=''

parse() {
  while (($#)); do
    case $1 in
      --dir) dir=$(realpath -m "${2:?}"); shift 2 ;;
      --datapath) datapath=${2:?}; shift 2 ;;
      --purge) purge=1; shift ;;
      *) die 2 "unknown option $1 (see the head of $0)" ;;
    esac
  done
  [[ -n $dir ]] || die 2 "--dir is needed"
  [[ $datapath =~ ^(netdev|system|)$ ]] || die 2 "--datapath is netdev or system"
  # Each daemon's control socket is the longest: D/ovs-vswitchd.4194304.ctl, and D/br.mgmt for a bridge.
  check_socket_path "$dir/ovs-vswitchd.4194304.ctl"
  # All five, or the daemons write to the system's places.
  export OVS_RUNDIR=$dir OVS_LOGDIR=$dir OVS_DBDIR=$dir OVS_SYSCONFDIR=$dir
  PATH=$PATH:/usr/sbin:/sbin
}

vsctl() { timeout 30 ovs-vsctl --db="unix:$dir/db.sock" --timeout=20 "$@"; }
db_pid() { pid_of "$dir/ovsdb-server.pid" "$dir"; }
switch_pid() { pid_of "$dir/ovs-vswitchd.pid" "$dir"; }
running() { db_pid >/dev/null && switch_pid >/dev/null; }

# The pid files are the daemons' own: ovs-appctl trusts only one that its daemon keeps locked.
# A change without --no-wait waits until the switch has carried out the whole configuration; the
# pid makes it a change each time, as one that changes nothing does not wait.
switch_ready() { switch_pid && vsctl set Open_vSwitch . "external_ids:gantry-switch-pid=$(switch_pid)"; }
db_ready() { db_pid && vsctl --no-wait show; }

choose_datapath() {
  local other
  [[ -n $datapath ]] || datapath=$(cat "$dir/datapath-type" 2>/dev/null || echo netdev)
  switch_pid >/dev/null && return 0
  for other in $(pgrep -x ovs-vswitchd); do
    gone "$other" || [[ $(readlink "/proc/$other/ns/net") != "$(readlink /proc/self/ns/net)" ]] ||
      die 1 "this host's datapath belongs to another ovs-vswitchd, pid $other: share it, or stop it"
  done
  if [[ $datapath == netdev ]]; then
    # The taps of a switch that was killed outlive it, and would be in the new one's way.
    # (Not by /sys, which may show another network namespace than ours.)
    ! ip link show ovs-netdev >/dev/null 2>&1 || ip link delete ovs-netdev
    return 0
  fi
  [[ -d /sys/module/openvswitch ]] || modprobe -q openvswitch ||
    die 1 "this kernel has no openvswitch module: use --datapath netdev"
}

start_database() {
  db_pid >/dev/null && return 0
  rm -f "$dir/db.sock" "$dir/ovsdb-server.pid"
  [[ -s $dir/conf.db ]] || ovsdb-tool create "$dir/conf.db" "$SCHEMA"
  bound_log "$dir/ovsdb-server.log"
  spawn "$dir/ovsdb-server.spawn" "$dir/ovsdb-server.out" ovsdb-server "$dir/conf.db" \
    --remote="punix:$dir/db.sock" --pidfile="$dir/ovsdb-server.pid" --log-file="$dir/ovsdb-server.log" -vconsole:off
  wait_until "$READY_S" db_ready || { tail -n 15 "$dir"/ovsdb-server.{out,log} >&2; die 1 "ovsdb-server did not get ready"; }
  vsctl --no-wait init
}

start_switch() {
  switch_pid >/dev/null && return 0
  rm -f "$dir/ovs-vswitchd.pid"
  bound_log "$dir/ovs-vswitchd.log"
  spawn "$dir/ovs-vswitchd.spawn" "$dir/ovs-vswitchd.out" ovs-vswitchd "unix:$dir/db.sock" \
    --pidfile="$dir/ovs-vswitchd.pid" --log-file="$dir/ovs-vswitchd.log" -vconsole:off
  wait_until "$READY_S" switch_ready || { tail -n 15 "$dir"/ovs-vswitchd.{out,log} >&2; die 1 "ovs-vswitchd did not get ready"; }
}

start() {
  ((EUID == 0)) || die 2 "must run as root"
  need ovsdb-server ovs-vswitchd ovsdb-tool ovs-vsctl setsid flock pgrep
  lock_dir "$dir"
  choose_datapath
  echo "$datapath" >"$dir/datapath-type"
  start_database
  start_switch
  echo "unix:$dir/db.sock"
}

# The kernel's side of a bridge goes only while the switch runs; a netdev switch's taps die with it.
remove_bridges() {
  local bridge
  if ! running; then
    [[ -s $dir/conf.db && $(cat "$dir/datapath-type") == system ]] || return 0
    start_database
    start_switch
  fi
  for bridge in $(vsctl list-br); do
    vsctl --if-exists del-br "$bridge" || say "could not delete bridge $bridge"
  done
}

stop() {
  local pid
  lock_dir "$dir"
  if ((purge)); then remove_bridges; fi
  if pid=$(switch_pid); then stop_pid "$pid" "$STOP_S"; fi
  if pid=$(db_pid); then stop_pid "$pid" "$STOP_S"; fi
  rm -f "$dir"/{ovsdb-server,ovs-vswitchd}.pid "$dir/db.sock"
  if ((purge)); then rm -rf "$dir"; fi
}

status() {
  running && db_ready >/dev/null 2>&1 || { say "not running"; exit 3; }
  echo "unix:$dir/db.sock"
}

main() {
  local verb=${1:-}
  (($#)) && shift
  case $verb in
    start | stop | status) parse "$@"; "$verb" ;;
    *) die 2 "start, stop or status (see the head of $0)" ;;
  esac
}

main "$@"
