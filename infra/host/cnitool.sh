#!/usr/bin/env bash
# Builds cnitool, the CNI project's own driver of plugins, once a machine and version, and prints where it is:
# ${GANTRY_CACHE:-~/.cache/gantry}/cnitool-VERSION/cnitool. Needs Go 1.21 or later, and the module proxy when it is
# not there yet; running it again does nothing.
#
# usage: cnitool.sh
# exit: 0 it is there; 1 it could not be built.
set -euo pipefail

SCRIPT_NAME=cnitool
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readonly MODULE=github.com/containernetworking/cni/cnitool VERSION=v1.3.0 TRIES=4

cache=${GANTRY_CACHE:-${HOME:?}/.cache/gantry}
place=$cache/cnitool-$VERSION

build() { # aside, then renamed: who finds it, finds it whole
  local aside
  aside=$(mktemp -d "$cache/.cnitool.XXXXXX")
  # Whatever the caller's module or workspace is, it is not this one's.
  if (cd "$aside" && GOBIN=$aside GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0 timeout 300 \
    go install "$MODULE@$VERSION" >&2); then
    rm -rf "$place"
    chmod 0755 "$aside"
    mv "$aside" "$place"
  else
    rm -rf "$aside"
    return 1
  fi
}

main() {
  local try
  lock_dir "$cache/cnitool.lock.d"
  if [[ ! -x $place/cnitool ]]; then
    need go
    [[ $(go env GOVERSION) =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 21)) ||
      die 1 "cnitool needs Go 1.21 or later, this is $(go env GOVERSION)"
    say "building $MODULE@$VERSION"
    for ((try = 1; ; try++)); do
      build && break
      ((try < TRIES)) || die 1 "could not build it (go $(go env GOVERSION))"
      say "failed (try $try of $TRIES)"
      sleep $((try * 2))
    done
  fi
  echo "$place/cnitool"
}

main "$@"
