#!/usr/bin/env bash
# A Docker engine of our own, apart from the system's: own socket, data and state, live-restore
# on, no bridge and no iptables (Gantry wires containers itself), runtime "gantry" registered.
#
# usage: engine.sh start --dir D [--runtime-path P] [--registry HOST:PORT]... [--storage-driver S]
#        engine.sh stop --dir D [--purge]      containers go on running (live-restore);
#                                              --purge removes them and the directory too
#        engine.sh status --dir D
#        engine.sh system     the system's own engine, if Gantry can use it: prints its URL
# start and status print the engine's URL (unix://D/docker.sock); pid in D/dockerd.pid, log in
# D/dockerd.log. exit: 0 done/running; 1 failed; 2 wrong usage; 3 not running.
set -euo pipefail

SCRIPT_NAME=engine
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/lib.sh"
readonly READY_S=40 STOP_S=20

dir='' runtime_path="$HERE/../../build/native/gantry-runc" storage_driver='' purge=0
registries=()

parse() {
  while (($#)); do
    case $1 in
      --dir) dir=$(realpath -m "${2:?}"); shift 2 ;;
      --runtime-path) runtime_path=${2:?}; shift 2 ;;
      --registry) registries+=("${2:?}"); shift 2 ;;
      --storage-driver) storage_driver=${2:?}; shift 2 ;;
      --purge) purge=1; shift ;;
      *) die 2 "unknown option $1 (see the head of $0)" ;;
    esac
  done
  [[ -n $dir ]] || die 2 "--dir is needed"
  runtime_path=$(realpath -m "$runtime_path")
  check_socket_path "$dir/exec/containerd/containerd-debug.sock"
}

# Docker's client here must not follow a DOCKER_HOST or context of the caller.
client() { env -u DOCKER_HOST -u DOCKER_CONTEXT -u DOCKER_TLS_VERIFY timeout 60 docker -H "unix://$dir/docker.sock" "$@"; }

engine_pid() { pid_of "$dir/dockerd.pid" "$dir"; }
containerd_pid() { pid_of "$dir/exec/containerd/containerd.pid" "$dir"; }

# A real mount tells; the kernel's list of filesystems does not know about nesting or missing rights.
overlay_works() {
  local probe ok=1
  probe=$(mktemp -d "$dir/overlay.XXXXXX")
  mkdir "$probe"/{lower,upper,work,merged}
  if mount -t overlay overlay \
    -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
    ok=0
    umount "$probe/merged"
  fi
  rm -rf "$probe"
  return $ok
}

choose_storage_driver() {
  [[ -z $storage_driver ]] || return 0
  if [[ -s $dir/storage-driver ]]; then
    storage_driver=$(<"$dir/storage-driver") # images of another driver would be invisible
  elif overlay_works; then
    storage_driver=overlay2
  else
    say "overlay2 does not work on $dir; using vfs: each container copies its whole image"
    storage_driver=vfs
  fi
}

# Everything by this file and not by flags: the system's /etc/docker/daemon.json must not leak in.
write_config() {
  local registry insecure=''
  for registry in "${registries[@]}"; do insecure+="${insecure:+, }\"$registry\""; done
  cat >"$dir/daemon.json" <<JSON
{
  "hosts": ["unix://$dir/docker.sock"],
  "data-root": "$dir/data",
  "exec-root": "$dir/exec",
  "pidfile": "$dir/dockerd.pid",
  "storage-driver": "$storage_driver",
  "live-restore": true,
  "bridge": "none",
  "ip": "127.0.0.1",
  "iptables": false,
  "ip6tables": false,
  "ip-forward": false,
  "ip-masq": false,
  "userland-proxy": false,
  "log-driver": "json-file",
  "log-opts": {"max-size": "20m", "max-file": "3"},
  "insecure-registries": [$insecure],
  "runtimes": {"gantry": {"path": "$runtime_path"}}
}
JSON
}

launch() {
  choose_storage_driver
  write_config
  [[ -x $runtime_path ]] || say "note: runtime gantry is not built yet: $runtime_path"
  # Both take a zombie, which no one may ever reap, for a living process: dockerd refuses its own
  # pid file then and waits in vain for a containerd that died with its parent.
  rm -f "$dir/dockerd.pid"
  containerd_pid >/dev/null || rm -f "$dir/exec/containerd/containerd.pid"
  spawn "$dir/spawn.pid" "$dir/dockerd.log" dockerd --config-file "$dir/daemon.json"
  wait_until "$READY_S" ready_or_dead && engine_pid >/dev/null
}

# By the pid of the spawned process: dockerd writes its own pid file a little later.
ready_or_dead() { ! pid_of "$dir/spawn.pid" "$dir" || client version; }

start() {
  ((EUID == 0)) || die 2 "must run as root"
  need dockerd containerd runc docker setsid flock
  lock_dir "$dir"
  if engine_pid >/dev/null; then
    wait_until "$READY_S" client version || die 1 "runs but does not answer: $dir/dockerd.log"
    echo "unix://$dir/docker.sock"
    return 0
  fi
  if ! launch; then
    tail -n 15 "$dir/dockerd.log" >&2
    local pid
    if pid=$(pid_of "$dir/spawn.pid" "$dir"); then stop_pid "$pid" 5; fi
    die 1 "the engine did not get ready in $READY_S s"
  fi
  echo "$storage_driver" >"$dir/storage-driver"
  echo "unix://$dir/docker.sock"
}

shims() { pgrep -f "containerd-shim.*$dir/exec/" || true; }

# A dead engine's containers live on: it is started once more to remove them.
remove_containers() {
  local ids
  if ! engine_pid >/dev/null; then
    [[ -n $(shims) ]] || return 0
    launch || { say "the engine does not start; killing its containers"; kill_containers; return 0; }
  fi
  ids=$(client ps -aq) || { say "could not list the containers"; return 0; }
  # shellcheck disable=SC2086 # ids are words
  [[ -z $ids ]] || client rm -f $ids >/dev/null || say "could not remove all containers"
}

kill_containers() {
  local shim
  for shim in $(shims); do
    pkill -KILL -P "$shim" || true
    kill -KILL "$shim" 2>/dev/null || true
  done
}

stop() {
  local pid
  lock_dir "$dir"
  if ((purge)); then remove_containers; fi
  if pid=$(engine_pid); then stop_pid "$pid" "$STOP_S"; fi
  rm -f "$dir/dockerd.pid"
  ((purge)) || return 0
  if pid=$(containerd_pid); then stop_pid "$pid" "$STOP_S"; fi
  local mount
  while read -r mount; do umount -l "$mount" || true; done \
    < <(awk -v d="$dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
  rm -rf --one-file-system "$dir" 2>/dev/null || die 1 "could not remove $dir"
}

# Usable: it answers, keeps containers over its own restart, and knows our runtime.
system() {
  local url=unix:///var/run/docker.sock info
  [[ -S ${url#unix://} ]] || { say "no system engine runs"; exit 3; }
  info=$(timeout 10 docker -H "$url" info -f '{{.LiveRestoreEnabled}} {{range $k, $_ := .Runtimes}}{{$k}} {{end}}') ||
    { say "the system engine does not answer"; exit 3; }
  [[ $info == true* ]] || { say "the system engine has live-restore off"; exit 3; }
  [[ " $info" == *" gantry "* ]] || { say "the system engine has no runtime named gantry"; exit 3; }
  echo "$url"
}

status() {
  engine_pid >/dev/null && client version >/dev/null 2>&1 || { say "not running"; exit 3; }
  echo "unix://$dir/docker.sock"
}

main() {
  local verb=${1:-}
  (($#)) && shift
  case $verb in
    system) system ;;
    start | stop | status) parse "$@"; "$verb" ;;
    *) die 2 "start, stop or status (see the head of $0)" ;;
  esac
}

main "$@"
