#!/bin/busybox sh
# Process 1 of the guest. Kernel messages go to one serial line; what is said here goes to another,
# which the kernel's command line names, with lines for the host that begin with ##.
export PATH=/usr/sbin:/bin
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >"/dev/$TCPTRACE_TEST_TTY" 2>&1
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs tracing /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 4096
bench guest && echo "## done"
poweroff -f
