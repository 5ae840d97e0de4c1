#!/bin/sh
# Puts Gantry where a host's executor runs it from: the code of this image and the OCI shim in
# /opt/gantry, and both names into /etc/gantry/executor.yaml, whose other settings stay. What runs goes on with what it has loaded; an
# executor's worker that starts anew takes the new code. The host needs Debian 12's python3. The CNI plugins go into
# /opt/gantry-cni/CLUSTER: apart, for clusters that share a host have their own.
#
# usage: install.sh CLUSTER HOST [TARGET [SOURCE]]     (default: into /host, from /opt/gantry)
set -eu

cluster=${1:?} host=${2:?} target=${3:-/host} source=${4:-/opt/gantry}
place=$target/opt/gantry

settings=$target/etc/gantry/executor.yaml
other=$(sed -nE 's/^cluster: *//p' "$settings" 2>/dev/null || true)
if [ -n "$other" ] && [ "$other" != "$cluster" ]; then
  echo "install.sh: this host is of cluster $other, as $settings says; remove that file if it is to be of $cluster" >&2
  exit 1
fi

mkdir -p "$target/opt" "$target/etc/gantry"
rm -rf "$place.new"
cp -a "$source" "$place.new"
rm -rf "$place.old"
[ ! -e "$place" ] || mv "$place" "$place.old" # kept: something may still load from it
mv "$place.new" "$place"

umask 077
{
  printf 'cluster: %s\nagent: %s\n' "$cluster" "$host"
  [ ! -e "$settings" ] || sed -E '/^(cluster|agent):/d' "$settings"
} >"$settings.new"
mv "$settings.new" "$settings"

"$source/app/services/hostd/shim/install.sh" "$target/opt/gantry-cni/$cluster" \
  "/run/gantry/$cluster/hostd.sock" /var/lib/gantry/hostd/cni
