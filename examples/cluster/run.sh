#!/usr/bin/env bash
# Train on one node or several. Run the same command on each, for example
#
#   NNODES=2 NPUS_PER_NODE=8 MASTER_ADDR=10.0.0.1 CURRENT_IP=10.0.0.2 CONFIG_NAME=online_dpo_trainer_qwen25_7b \
#       bash examples/cluster/run.sh [section.key=value ...]
#
# On the head node (CURRENT_IP equals MASTER_ADDR) the script starts Ray's head, waits for all devices, runs ray_gpt.py and
# returns its exit code. On other nodes it joins the cluster and stays until the head's Ray stops. An existing Ray at
# MASTER_ADDR:MASTER_PORT is used and left running. settings.sh describes the variables; PYTHON is the Python of the run
# (default: python3).
set -uo pipefail
# Children have their own process groups, so Ctrl-C reaches only this script, which stops the run first and then Ray.
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
    command -v "$program" >/dev/null || fail "$program is not on PATH; activate the environment of this project"
done
use_loopback
address="$MASTER_ADDR:$MASTER_PORT"
run_pid=""
signalled=""
forwarded=""

forward_signal() {
    signalled="$1"
    [[ -n "$run_pid" ]] || return
    forwarded=yes
    kill -s "$1" "$run_pid" 2>/dev/null
}
trap 'forward_signal INT' INT
trap 'forward_signal TERM' TERM
trap clean_up EXIT

# run_command COMMAND...: run a command to its end, forwarding signals; returns its exit code.
run_command() {
    local code last
    [[ -z "$signalled" ]] || return 130
    "$@" </dev/null &
    run_pid=$!
    # Forward a signal that arrived before the process id was recorded.
    [[ -z "$signalled" || -n "$forwarded" ]] || forward_signal "$signalled"
    wait "$run_pid"
    code=$?
    # A signal interrupts `wait`, but not the run.
    while kill -0 "$run_pid" 2>/dev/null; do
        wait "$run_pid"
        code=$?
    done
    # The run may have ended between `wait` and `kill`; 127 means that its exit code was already collected.
    wait "$run_pid" 2>/dev/null
    last=$?
    ((last == 127)) || code=$last
    run_pid=""
    return "$code"
}

start_head() {
    if port_is_open "$MASTER_ADDR" "$MASTER_PORT"; then
        ray_responds ||
            fail "port $MASTER_PORT of $MASTER_ADDR is used by a program that is not Ray, or by a Ray with another token;" \
                "choose another MASTER_PORT"
        echo "using the existing Ray at $address, which is left running"
        return
    fi
    echo "starting Ray's head at $address with $NPUS_PER_NODE NPUs"
    start_ray --head --port="$MASTER_PORT" --include-dashboard=false
    local end=$((SECONDS + JOIN_TIMEOUT_S))
    # The port accepts connections before Ray is ready.
    until ray_started; do
        if ! ray_is_running || ((SECONDS > end)) || [[ -n "$signalled" ]]; then
            print_ray_log
            fail "Ray's head did not start at $address; its output is in $RAY_LOG"
        fi
        sleep 1
    done
}

run_head() {
    start_head
    run_command env PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$python" "$here/wait_for_devices.py" "$address" \
        "$((NNODES * NPUS_PER_NODE))" "$JOIN_TIMEOUT_S" || return
    cd "$root" || return
    run_command "$python" ray_gpt.py --config-name "$CONFIG_NAME" "training.ray_address=$address" "training.device=$DEVICE" \
        training.ray_resource=NPU "$@"
}

# Join once; returns when the node has left the cluster.
join() {
    start_ray --address="$address"
    while ray_is_running; do
        [[ -z "$signalled" ]] || stop_ray
        # Signals interrupt `wait`, but not `sleep`.
        sleep 1 &
        wait $!
        if ! [[ "$joined" ]] && ray_started; then
            joined=yes
            echo "joined $address with $NPUS_PER_NODE NPUs; staying until the head stops"
        fi
    done
    stop_ray
}

run_worker() {
    local joined="" end=$((SECONDS + JOIN_TIMEOUT_S))
    echo "joining the head at $address"
    while [[ -z "$joined" && -z "$signalled" ]]; do
        if port_is_open "$MASTER_ADDR" "$MASTER_PORT"; then
            join
        fi
        if [[ -z "$joined" ]] && ((SECONDS > end)); then
            [[ -z "$RAY_LOG" ]] || print_ray_log
            fail "could not join $address within $JOIN_TIMEOUT_S s; check that the script runs there and that the port is open"
        fi
        [[ "$joined" ]] || sleep 2
    done
    [[ -z "$signalled" ]] || return 130
    if port_is_open "$MASTER_ADDR" "$MASTER_PORT"; then
        print_ray_log
        echo "error: Ray stopped on this node while the head at $address is still running; its output is in $RAY_LOG" >&2
        return 1
    fi
    echo "the head has stopped"
}

if [[ "$CURRENT_IP" == "$MASTER_ADDR" ]]; then
    run_head "$@"
else
    run_worker
fi
