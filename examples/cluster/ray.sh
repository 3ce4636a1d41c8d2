#!/usr/bin/env bash
# Sourced by run.sh: runs this node's Ray as a child process. `ray stop` is not used, because it stops every Ray on the
# machine, including those of other users. RAY_PID is the process started here, or empty.
RAY_PID=""
RAY_LOG=""

# Whether a token for Ray lies where Ray looks for one.
has_token() {
    [[ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" || -s "${HOME:-}/.ray/auth_token" ]]
}

# Enable Ray's token authentication for what this script starts, unless RAY_AUTH_MODE is set. A single node gets a token of
# its own, which exists in memory only; several nodes must share one.
use_token() {
    [[ -z "${RAY_AUTH_MODE:-}" ]] || return 0
    if has_token; then
        export RAY_AUTH_MODE=token
    elif ((NNODES == 1)); then
        RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
        export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
    else
        echo "warning: no token for Ray: anyone who reaches its ports can run programs on these nodes. Create one with" \
            "ray get-auth-token --generate and copy ~/.ray/auth_token to every node, readable by its owner only" >&2
    fi
}

# Keep Ray within this machine where it is the only node; otherwise Ray replaces a loopback address.
use_loopback() {
    ((NNODES > 1)) || [[ "$MASTER_ADDR" != localhost && "$MASTER_ADDR" != 127.* ]] ||
        export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
}

# Whether Ray responds at MASTER_ADDR:MASTER_PORT. A cluster without authentication ignores the token.
ray_responds() (
    ! has_token || export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
    timeout 60 ray status --address="$MASTER_ADDR:$MASTER_PORT" >/dev/null 2>&1
)

# start_ray ARGUMENTS...: start Ray on this node in the background and declare its devices.
start_ray() {
    local cpus=() more=()
    read -ra more <<<"${RAY_START_ARGS:-}"
    # Ray would keep a record of each call in the memory of the head.
    [[ "$1" != --head ]] || more+=('--system-config={"task_events_report_interval_ms": 0, "enable_timeline": false}')
    use_token
    export RAY_ROTATION_MAX_BYTES="${RAY_ROTATION_MAX_BYTES:-33554432}" RAY_ROTATION_BACKUP_COUNT="${RAY_ROTATION_BACKUP_COUNT:-2}"
    # Ray would give its workers a niceness of 15: beside any other program they would hardly compute.
    export RAY_worker_niceness="${RAY_worker_niceness:-0}"
    # CPU processes share cores, so declare at least one CPU per process.
    if [[ "$DEVICE" == cpu ]]; then
        cpus=("--num-cpus=$((NPUS_PER_NODE > $(nproc) ? NPUS_PER_NODE : $(nproc)))")
    fi
    RAY_LOG="$(mktemp -t "ray_${MASTER_PORT}_XXXXXX.log")"
    ray start "$@" --block --node-ip-address="$CURRENT_IP" --resources="{\"NPU\": $NPUS_PER_NODE}" "${cpus[@]}" \
        --disable-usage-stats "${more[@]}" </dev/null >"$RAY_LOG" 2>&1 &
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
