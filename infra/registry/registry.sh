#!/usr/bin/env bash
# An image registry of our own on loopback, without TLS: Docker accepts that from 127.0.0.0/8
# only, which is all it is meant for.
#
# usage: registry.sh start --dir D [--port P] [--notify URL] [--logins FILE]
#        registry.sh stop --dir D [--purge]
#        registry.sh status --dir D
# start and status print HOST:PORT. Without --port a free one is chosen once and kept in D/port.
# --notify sends push and delete events to URL (a registry webhook). --logins: who may push and
# pull, `user:password` a line; without it everybody. pid in D/registry.pid, log in
# D/registry.log. exit: 0 done/running; 1 failed; 2 wrong usage; 3 not running.
set -euo pipefail

SCRIPT_NAME=registry
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/../host/lib.sh"
readonly READY_S=20 STOP_S=10 PORT_TRIES=5

dir='' port='' notify='' logins='' purge=0

parse() {
  while (($#)); do
    case $1 in
      --dir) dir=$(realpath -m "${2:?}"); shift 2 ;;
      --port) port=${2:?}; shift 2 ;;
      --notify) notify=${2:?}; shift 2 ;;
      --logins) logins=$(realpath -e "${2:?}"); shift 2 ;;
      --purge) purge=1; shift ;;
      *) die 2 "unknown option $1 (see the head of $0)" ;;
    esac
  done
  [[ -n $dir ]] || die 2 "--dir is needed"
  [[ $port =~ ^[0-9]*$ ]] || die 2 "--port must be a number: $port"
}

registry_pid() { pid_of "$dir/registry.pid" "$dir"; }

# Distribution answers /v2/ with this header, and 200 or, where it wants a login, 401; another
# server on the port would not.
answers() {
  local reply
  exec 8<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET /v2/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&8
  reply=$(timeout 5 cat <&8)
  exec 8>&-
  [[ $reply == *" "@(200|401)" "*registry/2.0* ]]
}

notifications() {
  [[ -n $notify ]] || return 0
  cat <<YAML
notifications:
  endpoints:
    - name: gantry
      url: "$notify"
      timeout: 2s
      threshold: 5
      backoff: 1s
YAML
}

authentication() {
  [[ -n $logins ]] || return 0
  cat <<YAML
auth:
  htpasswd:
    realm: gantry
    path: "$dir/htpasswd"
YAML
}

write_config() {
  local text
  [[ -z $logins ]] || (umask 077 && python3 -IS "$HERE/htpasswd.py" <"$logins" >"$dir/htpasswd")
  text=$(<"$HERE/config.yml.in")
  # Quoted, or an & in them would stand for the pattern.
  text=${text//@DATA@/"$dir/data"}
  text=${text//@ADDRESS@/"127.0.0.1:$port"}
  text=${text//@NOTIFICATIONS@/"$(notifications)"}
  text=${text//@AUTH@/"$(authentication)"}
  printf '%s\n' "$text" >"$dir/config.yml"
}

launch() {
  local pid
  write_config
  spawn "$dir/registry.pid" "$dir/registry.log" docker-registry serve "$dir/config.yml"
  wait_until "$READY_S" registry_answers_or_died && registry_pid >/dev/null && (answers) 2>/dev/null && return 0
  if pid=$(registry_pid); then stop_pid "$pid" 5; fi
  return 1
}

registry_answers_or_died() { ! registry_pid || (answers) 2>/dev/null; }

start() {
  local try chosen=$port
  need docker-registry setsid flock python3
  lock_dir "$dir"
  mkdir -p "$dir/data"
  [[ -n $port ]] || { [[ -s $dir/port ]] && port=$(<"$dir/port"); } || port=$(free_port)
  if ! registry_pid >/dev/null; then
    # A free port may be taken before the registry binds it; one asked for is not replaced.
    for ((try = 1; ; try++)); do
      launch && break
      ((try < PORT_TRIES)) && [[ -z $chosen && ! -s $dir/port ]] ||
        { tail -n 10 "$dir/registry.log" >&2; die 1 "the registry did not get ready on port $port"; }
      port=$(free_port)
    done
    echo "$port" >"$dir/port"
  else
    port=$(<"$dir/port")
  fi
  echo "127.0.0.1:$port"
}

stop() {
  local pid
  lock_dir "$dir"
  if pid=$(registry_pid); then stop_pid "$pid" "$STOP_S"; fi
  rm -f "$dir/registry.pid"
  if ((purge)); then rm -rf "$dir"; fi
}

status() {
  [[ -s $dir/port ]] && port=$(<"$dir/port")
  registry_pid >/dev/null && (answers) 2>/dev/null || { say "not running"; exit 3; }
  echo "127.0.0.1:$port"
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
