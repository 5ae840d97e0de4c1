#!/bin/sh
# usage: root.sh DIR INIT [ARGUMENT…]: INIT as the first process of a container's file system made of busybox, in which
# DIR is /.gantry/run. To be run in mount, pid and network namespaces of its own.
set -e
dir=$1 init=$2
shift 2
mount --make-rprivate /
ip link set lo up
root=$(mktemp -d)
mount -t tmpfs root "$root"
cd "$root"
mkdir -p bin dev etc home proc sys tmp .gantry/run
cp "$(command -v busybox)" bin/busybox
for each in sh cat dd echo env false grep hostname id ipcs kill ls mkdir mknod mount nc printf ps readlink rm seq setsid sleep touch \
  true umount unshare wc; do
  ln -s busybox "bin/$each"
done
printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/home:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\nextra:x:77:nobody\n' >etc/group
chmod 1777 tmp
cp "$init" .gantry/init
mount -t tmpfs -o mode=755 dev dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/urandom c 1 9
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mkdir dev/pts dev/shm dev/mqueue
mount -t proc proc proc
mount --rbind /sys sys
mount --bind "$dir" .gantry/run
pivot_root . .
umount -l .
cd /
exec /.gantry/init "$@"
