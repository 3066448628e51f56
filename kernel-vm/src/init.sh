#!/bin/busybox sh
# Process 1 of the guest. Kernel messages go to one serial line; what is said here goes to another,
# which the kernel's command line names, with lines for the host that begin with ##.
export PATH=/usr/sbin:/bin TCPTRACE_BIN=/bin/tcptrace
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >"/dev/$TCPTRACE_TEST_TTY" 2>&1
/bin/busybox --install -s /bin
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=1777 tmp /tmp
ip link set lo up
for module in /modules/*; do
    insmod "$module"
done

echo "## check $(tcptrace check --json ${TCPTRACE_TEST_HOOKS:+--hooks "$TCPTRACE_TEST_HOOKS"})"
while read -r kind || [ -n "$kind" ]; do
    echo "## kind $kind $(tcptrace check --json --hooks "$kind")"
done </kinds
while read -r name || [ -n "$name" ]; do
    echo "## begin $name"
    timeout -k 5 300 kernel-tests --color never --exact "$name"
    status=$?
    echo
    echo "## end $status"
done </tests
echo "## done"
poweroff -f
