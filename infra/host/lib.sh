# shellcheck shell=bash
# Sourced by the server scripts: daemons of our own, each with its directory, pid file and log.

say() { printf '%s: %s\n' "${SCRIPT_NAME:-gantry}" "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

# pid_of PIDFILE NEEDLE: prints the pid if it is alive and its command line holds NEEDLE, so
# that a reused pid is never taken for ours.
pid_of() {
  local pid cmdline
  pid=$(cat "$1" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
  { cmdline=$(tr '\0' ' ' <"/proc/$pid/cmdline"); } 2>/dev/null || return 1
  # Empty for a moment in the middle of exec, which is no reason to call a daemon dead.
  [[ -z $cmdline || $cmdline == *"$2"* ]] && ! gone "$pid" || return 1
  printf '%s\n' "$pid"
}

# bound_log FILE...: a log over 32 MiB is put aside as FILE.1, before its daemon opens it anew.
bound_log() {
  local log
  for log in "$@"; do
    if [[ -f $log ]] && (($(stat -c %s "$log") > 33554432)); then mv -f "$log" "$log.1"; fi
  done
}

# spawn PIDFILE LOG COMMAND...: starts COMMAND in a session of its own, detached from our
# terminal and lock, and records its pid.
spawn() {
  local pidfile=$1 log=$2
  shift 2
  bound_log "$log"
  rm -f "$pidfile" # or an old one would be taken for the new
  setsid --fork bash -c 'echo $$ >"$1.new" && mv "$1.new" "$1"; shift; exec "$@"' \
    spawn "$pidfile" "$@" </dev/null >>"$log" 2>&1 9>&-
  wait_until 5 test -s "$pidfile"
}

# wait_until SECONDS COMMAND...: polls until COMMAND succeeds.
wait_until() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    ((${EPOCHREALTIME/[.,]/} < deadline)) || return 1
    sleep 0.05
  done
}

# stop_pid PID SECONDS: TERM, then KILL when the grace is over; a stopped one is continued first.
stop_pid() {
  kill -TERM "$1" 2>/dev/null || return 0
  kill -CONT "$1" 2>/dev/null || true
  wait_until "$2" gone "$1" && return 0
  say "pid $1 ignored TERM for $2 s; killing it"
  kill -KILL "$1" 2>/dev/null || true
  wait_until 5 gone "$1" || die 1 "pid $1 does not die"
}

# Not by $(<FILE): under `set -e` that ends bash 5.2, whatever follows, when the file has just gone.
gone() { # true for a zombie too: nobody may ever reap it
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  [[ ${stat##*) } == Z* ]]
}

# lock_dir DIR: one start or stop at a time; the lock is fd 9.
lock_dir() {
  mkdir -p "$1"
  exec 9>"$1/.lock"
  flock -w 120 9 || die 1 "another command holds $1/.lock"
}

need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die 1 "$command is missing: run infra/host/setup.sh"
  done
}

# A unix socket's path must fit 107 bytes, with its NUL.
check_socket_path() {
  ((${#1} <= 107)) || die 2 "path too long for a unix socket (${#1} > 107 bytes): $1"
}

free_port() { # the kernel chooses; bound and let go again
  python3 -IS -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
