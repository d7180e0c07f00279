#!/bin/busybox sh
# First process of a guest: sets up, runs the test's script, reports its status and powers off.
export PATH=/tools:/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /proc /sys /dev /host /mnt /tmp /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t hostfs none /host
. /host/settings

# The shell would prefer busybox's own.
mke2fs() { /tools/mke2fs "$@"; }

# Tells the host that a point is reached.
mark() { echo "$2" >"/tmp/mark"; cp /tmp/mark "/host/$1.new"; mv "/host/$1.new" "/host/$1"; }
# Waits for the host to create a file.
await() { while ! [ -e "/host/$1" ]; do usleep 50000; done; }
# Waits for a disk such as e0.0.
await_disk() { while ! [ -b "/dev/etherd/$1" ]; do usleep 20000; done; }
# Ends the script with a reason.
fail() { echo "FAIL: $*"; exit 1; }

# Requests in flight while the wire has long been silent: the host decides who is to blame.
watch_for_stall() {
    quiet=0
    last=
    while sleep 1; do
        flying=$(cat /sys/block/etherd*/inflight 2>/dev/null | awk '{ n += $1 + $2 } END { print n + 0 }')
        now=$(cat /sys/class/net/vec0/statistics/rx_packets /sys/class/net/vec0/statistics/tx_packets)
        if [ "$flying" -gt 0 ] && [ "$now" = "$last" ]; then quiet=$((quiet + 1)); else quiet=0; fi
        last=$now
        [ "$quiet" -ge "$STALL" ] && mark stalled "$flying in flight" && return
    done
}

if [ -n "$MAC" ]; then
    ip link set vec0 address "$MAC"
    ip link set vec0 mtu "$MTU"
    ip link set vec0 up
fi
for module in $MODULES; do insmod "/modules/$module.ko" || echo "module $module does not load"; done
[ -n "$MAC" ] && watch_for_stall &
(. /host/script)
mark status $?
sync
poweroff -f
