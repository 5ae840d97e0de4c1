#!/bin/sh
# Puts the CNI plugins of one cluster into a directory: `gantry` and `gantry-ipam`, one script under two names, with the
# paths of that cluster's hostd in it. Clusters that share a host have a directory each. Runs again with each new
# version; a call under way goes on with what it has read.
#
# usage: install.sh DIRECTORY SOCKET QUEUE
#   SOCKET  hostd's (hostd.socket, by default /run/gantry/<cluster>/hostd.sock)
#   QUEUE   where DELs are kept while hostd is down (hostd.cni_queue, by default <data_dir>/hostd/cni)
# For a runtime: CNI_PATH (Mesos: --network_cni_plugins_dir) is DIRECTORY, with :/usr/lib/cni for the other plugins.
set -eu

directory=${1:?} socket=${2:?} queue=${3:?}
source=$(dirname "$0")/gantry-cni

for path in "$socket" "$queue"; do
  case $path in
    *[!A-Za-z0-9_./-]* | [!/]*) echo "install.sh: not a plain absolute path: $path" >&2; exit 2 ;;
  esac
done
umask 022
mkdir -p "$directory"
sed -e "s|^SOCKET = .*|SOCKET = \"$socket\"|" -e "s|^QUEUE = .*|QUEUE = \"$queue\"|" "$source" >"$directory/.gantry.new"
chmod 0755 "$directory/.gantry.new"
mv "$directory/.gantry.new" "$directory/gantry"
ln -sf gantry "$directory/.gantry-ipam.new"
mv "$directory/.gantry-ipam.new" "$directory/gantry-ipam"
