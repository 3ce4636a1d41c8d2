#!/usr/bin/env bash
# Sourced by run.sh: runs this node's Ray as a child process. `ray stop` is not used, because it stops every Ray on the
# machine, including those of other users. RAY_PID is the process started here, or empty.
RAY_PID=""
RAY_LOG=""

# start_ray ARGUMENTS...: start Ray on this node in the background and declare its devices.
start_ray() {
    local cpus=()
    # CPU processes share cores, so declare at least one CPU per process.
    if [[ "$DEVICE" == cpu ]]; then
        cpus=("--num-cpus=$((NPUS_PER_NODE > $(nproc) ? NPUS_PER_NODE : $(nproc)))")
    fi
    RAY_LOG="$(mktemp -t "ray_${MASTER_PORT}_XXXXXX.log")"
    ray start "$@" --block --node-ip-address="$CURRENT_IP" --resources="{\"NPU\": $NPUS_PER_NODE}" "${cpus[@]}" \
        --disable-usage-stats </dev/null >"$RAY_LOG" 2>&1 &
    RAY_PID=$!
}

ray_is_running() {
    [[ -n "$RAY_PID" ]] && kill -0 "$RAY_PID" 2>/dev/null
}

# Whether Ray is ready.
ray_started() {
    grep -q "Ray runtime started" "$RAY_LOG"
}

# Stop the process that start_ray started, and wait for it.
stop_ray() {
    [[ -n "$RAY_PID" ]] || return 0
    kill -TERM "$RAY_PID" 2>/dev/null
    # A signal interrupts `wait`, but not Ray.
    while ray_is_running; do
        wait "$RAY_PID" 2>/dev/null
    done
    RAY_PID=""
}

# At the end of the script: stop Ray, and remove its log if the script succeeded.
clean_up() {
    local code=$?
    stop_ray
    ((code)) || [[ -z "$RAY_LOG" ]] || rm -f "$RAY_LOG"
}

# Print the last lines of Ray's output.
print_ray_log() {
    tail -n 5 "$RAY_LOG" | sed 's/^/  ray: /' >&2
}
