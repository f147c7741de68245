#!/bin/sh
# PID 1 of a step's container: runs the step and, beside it, a watchdog that ends it.
#
# Usage: sh -c THIS odooops TIMEOUT GRACE FILES BLOCKS KILOBYTES COMMAND...
# Times in hundredths of a second; the limits are those of ulimit -n, -f and -v; any may be empty.
#
# Needs sh and sleep, nothing else. /run/odooops/control is written by the worker and read-only in
# here: "lease" (the moment, on the clock of /proc/uptime, at which everything ends) and "stop" (the
# grace in which it is to end). /run/odooops/end/reason tells the worker why it ended, and "rung"
# beside it the last signal that was sent for that; without a reason, PID 1 was killed from outside.
# "oom" is there when memory ran out.
#
# The step is started in the foreground: a shell starts background commands with SIGINT ignored, and
# SIGINT is the first rung of the ladder. So the watchdog is the one in the background. It outlives
# every signal it sends, since "kill -1" spares its sender and PID 1. It must be able to fork for
# its "sleep": when it cannot, the step has used up its processes, and that ends it, too.

control=/run/odooops/control
reason_file=/run/odooops/end/reason
rung_file=/run/odooops/end/rung
timeout=$1 grace=$2
# POSIX knows only -f, but dash, busybox and bash have all three.
# shellcheck disable=SC3045
set_limits() {
    [ -z "$1" ] || ulimit -n "$1"
    [ -z "$2" ] || ulimit -f "$2"
    [ -z "$3" ] || ulimit -v "$3"
}

set_limits "$3" "$4" "$5" 2>/dev/null
shift 5

clock() {
    read -r uptime _ </proc/uptime
    now=${uptime%.*}${uptime#*.}
}

begin() {
    reason=$1 term_at=$((now + $2 / 2)) kill_at=$((now + $2))
    echo "$reason" >"$reason_file"
    [ "$2" -eq 0 ] || send INT
}

# To everything but PID 1 and this watchdog; the last one is told to the worker.
send() {
    echo "SIG$1" >"$rung_file"
    kill "-$1" -1
}

watch() {
    trap '' HUP INT QUIT TERM USR1 USR2
    trap 'clock; [ -n "$reason" ] || begin process_limit 0; send KILL' EXIT
    reason='' term_at='' kill_at='' lease='' wanted='' tick=0.25
    sleep 0.01 || tick=1
    clock
    [ -z "$timeout" ] || timeout=$((now + timeout))
    while :; do
        clock
        read -r lease <"$control/lease"
        if [ "$reason" != lease ] && [ "$now" -ge "$lease" ]; then
            begin lease 0
        elif [ -z "$reason" ] && [ -n "$timeout" ] && [ "$now" -ge "$timeout" ]; then
            begin timeout "$grace"
        elif [ -z "$reason" ] && [ -e "$control/stop" ] && read -r wanted <"$control/stop"; then
            begin stopped "$wanted"
        fi
        if [ -n "$reason" ] && [ "$now" -ge "$kill_at" ]; then
            send KILL
        elif [ -n "$term_at" ] && [ "$now" -ge "$term_at" ]; then
            term_at=''
            send TERM
        fi
        sleep "$tick"
    done
}

# Whether anything but PID 1 lives; a zombie has no program.
others() {
    for process in /proc/[0-9]*; do
        [ "$process" = /proc/1 ] || ! [ -e "$process/exe" ] || return 0
    done
    return 1
}

# Tell whether the kernel killed something in here for want of memory: by the control group's own
# count, of version 2 or of version 1.
count_oom() {
    for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
        [ -r "$file" ] || continue
        while read -r key value; do
            [ "$key" != oom_kill ] || [ "$value" -eq 0 ] || echo "$value" >/run/odooops/end/oom
        done <"$file"
    done
}

if ! command -v "$1" >/dev/null 2>&1; then
    echo not_started >"$reason_file"
    exit 127
fi
watch "$@" </dev/null >/dev/null 2>&1 &
watchdog=$!
# A PID 1 without handlers is deaf to these; with them it would report the step's end wrongly.
trap : HUP INT TERM USR1 USR2
# What this shell has to say about its own jobs is not the step's output.
exec 3>&2 2>/dev/null
"$@" 2>&3 3>&-
code=$?
count_oom
kill -KILL "$watchdog"
wait "$watchdog"
# What the step left behind may end by itself, for two seconds; the end of PID 1 kills the rest.
kill -TERM -1
rounds=0
while others && [ "$rounds" -lt 70 ]; do
    rounds=$((rounds + 1))
    [ "$rounds" -le 50 ] || sleep 0.1 || rounds=70
done
[ -e "$reason_file" ] || echo exited >"$reason_file"
exit "$code"
