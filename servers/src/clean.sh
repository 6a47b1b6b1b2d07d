directory=$1

# Nobody ever writes: this is over when the owner is.
read -r _

# Whatever works in the directory. A zombie works nowhere.
working() {
    find /proc/[0-9]*/cwd -prune \( -lname "$directory" -o -lname "$directory/*" \) 2>/dev/null | cut -d / -f 3
}

is_initializing() {
    for pid in $(working); do
        if grep -qsx initdb "/proc/$pid/comm"; then return 0; fi
    done
    return 1
}

# The programs that initdb runs give their shared memory back when they are done, but not when a signal ends them.
tries=0
while [ "$tries" -lt 100 ] && is_initializing; do
    sleep 0.1
    tries=$((tries + 1))
done

# For two seconds politely, then for ten without. Redis has nothing to give back, and to it SIGQUIT is a crash.
tries=0
while pids=$(working) && [ -n "$pids" ] && [ "$tries" -lt 120 ]; do
    for pid in $pids; do
        signal=QUIT
        if [ "$tries" -ge 20 ] || grep -qsx redis-server "/proc/$pid/comm"; then signal=KILL; fi
        kill -s "$signal" "$pid" 2>/dev/null
    done
    sleep 0.1
    tries=$((tries + 1))
done

memory=$(sed -n '7s/^.* //p' "$directory/data/postmaster.pid" 2>/dev/null)
[ -n "$memory" ] && ipcrm -m "$memory" 2>/dev/null

rm -rf -- "$directory"
