#!/usr/bin/env bash
# Train on one node or several: the same command on each, for example
#
#   NNODES=2 NPUS_PER_NODE=8 MASTER_ADDR=10.0.0.1 CURRENT_IP=10.0.0.2 CONFIG_NAME=online_dpo_trainer_qwen25_7b \
#       bash examples/cluster/run.sh [section.key=value ...]
#
# Where CURRENT_IP is MASTER_ADDR, Ray's head is started, all devices are waited for, the run is made, and the exit code is
# the run's. Elsewhere the node joins and stays until the head's Ray ends. A Ray that already runs at MASTER_ADDR:MASTER_PORT is
# used and left alone. Variables: settings.sh; PYTHON is the Python of the run (default: python3).
set -uo pipefail
# Children in groups of their own: Ctrl-C reaches this script, which passes it on in order: first the run, then Ray.
set -m
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
# shellcheck source=examples/cluster/settings.sh
source "$here/settings.sh"
# shellcheck source=examples/cluster/ray.sh
source "$here/ray.sh"
python="${PYTHON:-python3}"

read_settings
require CONFIG_NAME
for program in ray "$python"; do
    command -v "$program" >/dev/null || fail "there is no $program on PATH; activate the environment of this project"
done
address="$MASTER_ADDR:$MASTER_PORT"
run_pid=""
signalled=""
passed=""

pass_on() {
    signalled="$1"
    [[ -n "$run_pid" ]] || return
    passed=yes
    kill -s "$1" "$run_pid" 2>/dev/null
}
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM
trap leave EXIT

# do_run COMMAND...: run it to its end, passing signals on; gives its exit code.
do_run() {
    local code last
    [[ -z "$signalled" ]] || return 130
    "$@" </dev/null &
    run_pid=$!
    # One that came while the run was being started had nobody to go to.
    [[ -z "$signalled" || -n "$passed" ]] || pass_on "$signalled"
    wait "$run_pid"
    code=$?
    # A signal ends `wait`, not the run.
    while kill -0 "$run_pid" 2>/dev/null; do
        wait "$run_pid"
        code=$?
    done
    # It may have ended between the two; 127 says that its code is known already.
    wait "$run_pid" 2>/dev/null
    last=$?
    ((last == 127)) || code=$last
    run_pid=""
    return "$code"
}

start_head() {
    if answers "$MASTER_ADDR" "$MASTER_PORT"; then
        timeout 60 ray status --address="$address" >/dev/null 2>&1 ||
            fail "port $MASTER_PORT of $MASTER_ADDR is taken by a program that is not Ray; choose another MASTER_PORT"
        echo "using the Ray that already runs at $address; it is left running"
        return
    fi
    echo "starting Ray's head at $address with $NPUS_PER_NODE NPUs"
    start_ray --head --port="$MASTER_PORT" --include-dashboard=false
    local end=$((SECONDS + JOIN_TIMEOUT_S))
    # Its port answers earlier than it can be used.
    until ray_started; do
        if ! ray_lives || ((SECONDS > end)) || [[ -n "$signalled" ]]; then
            ray_said
            fail "Ray's head did not start at $address; all it said is in $RAY_LOG"
        fi
        sleep 1
    done
}

be_head() {
    start_head
    do_run "$python" "$here/wait_for_devices.py" "$address" "$((NNODES * NPUS_PER_NODE))" "$JOIN_TIMEOUT_S" || return
    cd "$root" || return
    do_run "$python" ray_gpt.py --config-name "$CONFIG_NAME" "training.ray_address=$address" "training.device=$DEVICE" \
        training.ray_resource=NPU "$@"
}

# One attempt to join; returns when the node has left again.
join() {
    start_ray --address="$address"
    while ray_lives; do
        [[ -z "$signalled" ]] || stop_ray
        # `wait` wakes up for signals, `sleep` does not.
        sleep 1 &
        wait $!
        if ! [[ "$joined" ]] && ray_started; then
            joined=yes
            echo "joined $address with $NPUS_PER_NODE NPUs; staying until the head ends"
        fi
    done
    stop_ray
}

be_worker() {
    local joined="" end=$((SECONDS + JOIN_TIMEOUT_S))
    echo "joining the head at $address"
    while [[ -z "$joined" && -z "$signalled" ]]; do
        if answers "$MASTER_ADDR" "$MASTER_PORT"; then
            join
        fi
        if [[ -z "$joined" ]] && ((SECONDS > end)); then
            [[ -z "$RAY_LOG" ]] || ray_said
            fail "could not join $address within $JOIN_TIMEOUT_S s; is the script running there, and is the port open?"
        fi
        [[ "$joined" ]] || sleep 2
    done
    [[ -z "$signalled" ]] || return 130
    if answers "$MASTER_ADDR" "$MASTER_PORT"; then
        ray_said
        echo "error: this node's Ray ended although the head at $address still runs; all it said is in $RAY_LOG" >&2
        return 1
    fi
    echo "the head has ended"
}

if [[ "$CURRENT_IP" == "$MASTER_ADDR" ]]; then
    be_head "$@"
else
    be_worker
fi
