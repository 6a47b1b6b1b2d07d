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

# For two seconds politely, then for ten without. The list is not quoted, to be split.
tries=0
while pids=$(working) && [ -n "$pids" ] && [ "$tries" -lt 120 ]; do
    if [ "$tries" -lt 20 ]; then signal=QUIT; else signal=KILL; fi
    kill -s "$signal" $pids 2>/dev/null
    sleep 0.1
    tries=$((tries + 1))
done

memory=$(sed -n '7s/^.* //p' "$directory/data/postmaster.pid" 2>/dev/null)
[ -n "$memory" ] && ipcrm -m "$memory" 2>/dev/null

rm -rf -- "$directory"
