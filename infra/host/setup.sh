#!/usr/bin/env bash
# Sets a Debian 12 host up for Gantry: installs what is missing, starts nothing of its own
# accord except the system's Docker and Open vSwitch where systemd runs. Asks nothing;
# running it again is quick and changes nothing.
#
# usage: setup.sh [host|test|browser|images|python]...        (default: host)
#   host     Docker engine, Open vSwitch, HAProxy, C compiler, local image registry
#   test     host, Java, Maven and ZooKeeper for the integration tests' servers, docker-compose, CNI's own
#            plugins, and cnitool (built once by cnitool.sh)
#   browser  Chromium, for the console's screenshots
#   images   test, and debootstrap for images that are built without any registry
#   python   what Python needs to make a virtual environment
# exit: 0 all there; 1 failed; 2 wrong usage or not root.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE APT_TRIES=4
readonly DPKG_LOCK_WAIT_S=300
readonly LOCK_FILE=/run/lock/gantry-setup.lock
readonly POLICY_FILE=/usr/sbin/policy-rc.d

# A line is "package" (must be installed as that) or "package=command" (any provider of the
# command will do: a compiler or a JDK from elsewhere is left alone).
readonly HOST_PACKAGES="docker.io runc openvswitch-switch haproxy gcc=gcc libc6-dev make=make
  iproute2 ethtool procps util-linux busybox-static docker-registry ca-certificates"
readonly TEST_PACKAGES="default-jdk-headless=javac maven=mvn zookeeperd docker-compose
  containernetworking-plugins golang-go=go"
readonly BROWSER_PACKAGES="chromium=chromium"
readonly IMAGES_PACKAGES="debootstrap"
readonly PYTHON_PACKAGES="python3-venv"
# Their packages would start a server on a well-known port at the next boot; Gantry runs its own.
readonly PRIVATE_ONLY="docker-registry zookeeper haproxy"
# The system's engine.
readonly ENGINE_CONFIG=/etc/docker/daemon.json ENGINE_SOCKET=/run/docker.sock ENGINE_PID=/run/docker.pid

say() { printf 'setup: %s\n' "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

usage() { sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; }

wanted_packages() {
  local profile
  for profile in "$@"; do
    case $profile in
      host) echo "$HOST_PACKAGES" ;;
      test) echo "$HOST_PACKAGES $TEST_PACKAGES" ;;
      browser) echo "$BROWSER_PACKAGES" ;;
      images) echo "$HOST_PACKAGES $TEST_PACKAGES $IMAGES_PACKAGES" ;;
      python) echo "$PYTHON_PACKAGES" ;;
      *) usage >&2; die 2 "no such profile: $profile" ;;
    esac
  done
}

# Prints the packages still to install, one a line. One dpkg-query for all: it is the slow part.
missing_packages() {
  local spec package command plain=()
  for spec in "$@"; do
    package=${spec%%=*}
    if [[ $spec == *=* ]]; then
      command=${spec#*=}
      command -v "$command" >/dev/null || echo "$package"
    else
      plain+=("$package")
    fi
  done
  ((${#plain[@]})) || return 0
  { dpkg-query -W -f='${db:Status-Abbrev} ${binary:Package}\n' "${plain[@]}" 2>/dev/null || true; } |
    awk -v wanted="${plain[*]}" '
      $1 == "ii" { sub(/:.*/, "", $2); have[$2] = 1 }
      END { n = split(wanted, w, " "); for (i = 1; i <= n; i++) if (!(w[i] in have)) print w[i] }'
}

# retry COMMAND...: bounded, with growing pauses; the mirrors of a package index do fail now and then.
retry() {
  local try
  for ((try = 1; try <= APT_TRIES; try++)); do
    "$@" && return 0
    ((try == APT_TRIES)) || { say "failed (try $try of $APT_TRIES): $*"; sleep $((try * 2)); }
  done
  return 1
}

apt() {
  DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true timeout 900 \
    apt-get -qq -y -o "DPkg::Lock::Timeout=$DPKG_LOCK_WAIT_S" -o Acquire::Retries=3 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" </dev/null
}

index_knows() { apt-cache show --no-all-versions "$@" >/dev/null 2>&1; }

# Keeps freshly installed packages from starting their servers, unless the host already has a say.
forbid_service_starts() {
  [[ -e $POLICY_FILE ]] && return 0
  printf '#!/bin/sh\nexit 101\n' >"$POLICY_FILE"
  chmod 0755 "$POLICY_FILE"
  trap 'rm -f "$POLICY_FILE"' EXIT
}

install_packages() {
  local log updated=0
  log=$(mktemp)
  say "installing: $*"
  if ! index_knows "$@"; then
    retry apt update >"$log" 2>&1 || { tail -n 20 "$log" >&2; die 1 "apt-get update failed"; }
    updated=1
  fi
  forbid_service_starts
  if ! apt install --no-install-recommends "$@" >"$log" 2>&1; then
    # An old index names versions that the mirror no longer has.
    ((updated)) || retry apt update >>"$log" 2>&1 || true
    retry apt install --no-install-recommends "$@" >>"$log" 2>&1 ||
      { tail -n 30 "$log" >&2; die 1 "apt-get install failed; log: $log"; }
  fi
  rm -f "$log"
}

# Live-restore lets containers outlive the engine; without it an engine upgrade stops them all.
configure_system_engine() {
  [[ -e $ENGINE_CONFIG ]] && return 0
  mkdir -p "$(dirname "$ENGINE_CONFIG")"
  printf '{\n  "live-restore": true,\n  "log-opts": {"max-size": "20m", "max-file": "3"}\n}\n' \
    >"$ENGINE_CONFIG"
}

# "live-restore swarm-state" of the system's engine, such as "false inactive"; nothing if it does not run.
engine_says() {
  env -u DOCKER_CONTEXT timeout 20 docker -H "unix://$ENGINE_SOCKET" info \
    --format '{{if .ServerVersion}}{{.LiveRestoreEnabled}} {{.Swarm.LocalNodeState}}{{end}}' 2>/dev/null || true
}

# A Docker that was here before us has it set only where that can hurt nobody: a configuration of its owner is not
# ours to rewrite, and an engine in swarm mode does not start with it.
ensure_live_restore() {
  local says n
  says=$(engine_says)
  [[ $says == true* ]] && return 0
  if [[ $says == "false inactive" && ! -e $ENGINE_CONFIG && $EUID == 0 && -s $ENGINE_PID ]]; then
    mkdir -p "$(dirname "$ENGINE_CONFIG")"
    printf '{\n  "live-restore": true\n}\n' >"$ENGINE_CONFIG"
    kill -HUP "$(cat "$ENGINE_PID")"
    for ((n = 0; n < 50; n++)); do # it reads its configuration again
      says=$(engine_says)
      [[ $says == true* ]] && break
      sleep 0.2
    done
    [[ $says == true* ]] && { say "live-restore is on now in the Docker engine that was here"; return 0; }
  fi
  if [[ -n $says ]]; then
    say "WARNING: the Docker engine here runs without live-restore: its upgrade or crash stops all containers."
  elif grep -Eqs '"live-restore"[[:space:]]*:[[:space:]]*true' "$ENGINE_CONFIG"; then
    return 0
  else
    say "WARNING: the Docker engine here does not run, and nothing tells it to keep containers over its restarts."
  fi
  say "         Put \"live-restore\": true into $ENGINE_CONFIG; then systemctl reload docker (no swarm mode)."
}

start_system_services() {
  local unit
  [[ -d /run/systemd/system ]] || return 0
  for unit in $PRIVATE_ONLY; do
    [[ " $* " == *" $unit"* ]] && systemctl disable --quiet --now "$unit" 2>/dev/null || true
  done
  for unit in docker openvswitch-switch; do
    systemctl is-active --quiet "$unit" || systemctl enable --quiet --now "$unit"
  done
}

# cnitool is no package: its own script builds it.
build_tools() {
  local profile
  for profile in "$@"; do
    [[ $profile == test || $profile == images ]] || continue
    "$HERE/cnitool.sh" >/dev/null
    return
  done
}

main() {
  local wanted missing
  [[ " $* " != *" -h "* && " $* " != *" --help "* ]] || { usage; return 0; }
  # shellcheck disable=SC2046 # both lists are words by design
  wanted=$(wanted_packages "${@:-host}") || exit $?
  # shellcheck disable=SC2086
  missing=$(missing_packages $wanted)
  if [[ -z $missing ]]; then
    build_tools "${@:-host}"
    [[ $wanted != *docker.io* ]] || ensure_live_restore
    say "everything is there"
    return 0
  fi
  ((EUID == 0)) || die 2 "must run as root to install: ${missing//$'\n'/ }"
  command -v apt-get >/dev/null || die 1 "needs a Debian host (no apt-get)"
  exec 9>"$LOCK_FILE"
  flock -w 900 9 || die 1 "another setup has been running for 15 minutes"
  # shellcheck disable=SC2086
  missing=$(missing_packages $wanted) # someone else may have installed them while we waited
  if [[ -n $missing ]]; then
    [[ $missing == *docker.io* ]] && configure_system_engine
    # shellcheck disable=SC2086
    install_packages $missing
    # shellcheck disable=SC2086
    start_system_services $missing
    # shellcheck disable=SC2086
    missing=$(missing_packages $wanted)
    [[ -z $missing ]] || die 1 "still missing: ${missing//$'\n'/ }"
  fi
  build_tools "${@:-host}"
  [[ $wanted != *docker.io* ]] || ensure_live_restore
  say "done"
}

main "$@"
