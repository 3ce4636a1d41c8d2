#!/usr/bin/env bash
# Sourced by run.sh: this node's Ray, as a child that lives until it is told to end. `ray stop` is never used: it would end
# every Ray of the machine, those of others too. RAY_PID is the record of the one that was started here, empty for none.
RAY_PID=""
RAY_LOG=""

# start_ray ARGUMENTS...: start this node's part in the background, with its devices declared.
start_ray() {
    local cpus=()
    # Processes on the CPU share its cores, so as many are declared as there shall be processes.
    if [[ "$DEVICE" == cpu ]]; then
        cpus=("--num-cpus=$((NPUS_PER_NODE > $(nproc) ? NPUS_PER_NODE : $(nproc)))")
    fi
    RAY_LOG="$(mktemp -t "ray_${MASTER_PORT}_XXXXXX.log")"
    ray start "$@" --block --node-ip-address="$CURRENT_IP" --resources="{\"NPU\": $NPUS_PER_NODE}" "${cpus[@]}" \
        --disable-usage-stats </dev/null >"$RAY_LOG" 2>&1 &
    RAY_PID=$!
}

ray_lives() {
    [[ -n "$RAY_PID" ]] && kill -0 "$RAY_PID" 2>/dev/null
}

# Whether it is ready.
ray_started() {
    grep -q "Ray runtime started" "$RAY_LOG"
}

# End what start_ray began, and wait for it.
stop_ray() {
    [[ -n "$RAY_PID" ]] || return 0
    kill -TERM "$RAY_PID" 2>/dev/null
    # A signal ends `wait`, not Ray.
    while ray_lives; do
        wait "$RAY_PID" 2>/dev/null
    done
    RAY_PID=""
}

# At the end of the script: Ray goes, and so does its log unless something went wrong.
leave() {
    local code=$?
    stop_ray
    ((code)) || [[ -z "$RAY_LOG" ]] || rm -f "$RAY_LOG"
}

# What Ray said last, for a message.
ray_said() {
    tail -n 5 "$RAY_LOG" | sed 's/^/  ray: /' >&2
}
