#!/bin/busybox sh
# The first process of the virtual machine: mounts, the CUSE module, the checks, power off.
/bin/busybox mkdir -p /proc /sys /run /tmp /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
# Not a mount: the programs may lie below it, where the tests look for them.
chmod 1777 /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A kernel built for this has it inside.
[ ! -e /lib/cuse.ko ] || insmod /lib/cuse.ko
ifconfig lo up 2>/dev/null
export PATH=/usr/bin:/bin:/sbin HOME=/root IOASIDD_VM_GUEST=1 RUST_BACKTRACE=1
for word in $(cat /proc/cmdline); do
    case $word in ioasidd.checks=*) checks=$(echo "${word#ioasidd.checks=}" | tr , ' ') ;; esac
done
# shellcheck disable=SC2086 # a list
checks --ignored --nocapture --test-threads=1 $checks
echo "IOASIDD-VM-RESULT: $?"
poweroff -f
