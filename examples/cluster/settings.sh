#!/usr/bin/env bash
# Sourced by run.sh: reads and checks this node's settings. Starts and stops nothing.
#
#   NNODES         number of nodes (default: 1)
#   NPUS_PER_NODE  devices per node
#   MASTER_ADDR    address of the head node, and CURRENT_IP of this node; optional with one node
#   SOCKET_IFNAME  interface between the nodes; sets CURRENT_IP, HCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME if unset
#   MASTER_PORT    port of Ray on the head node (default: 6344)
#   DEVICE         npu (default), or cpu: NPUs are only declared to Ray, and the processes run on the CPU
#   RAY_START_ARGS further arguments of ray start, such as fixed ports (docs/reliability.md)
#   JOIN_TIMEOUT_S how long nodes wait for each other, in seconds (default: 600)

# Print an error and exit with the code for invalid settings.
fail() {
    echo "error: $*" >&2
    exit 2
}

require() {
    local name
    for name in "$@"; do
        [[ -n "${!name:-}" ]] || fail "$name is not set; see examples/cluster/settings.sh"
    done
}

require_number() {
    local name="$1" minimum="$2" maximum="$3"
    if ! [[ "${!name}" =~ ^[0-9]{1,9}$ ]] || ((10#${!name} < minimum || 10#${!name} > maximum)); then
        fail "$name should be a number from $minimum to $maximum, got '${!name}'"
    fi
}

# Whether a program listens on a port: port_is_open HOST PORT.
port_is_open() {
    # shellcheck disable=SC2016  # the inner shell expands its own arguments
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null
}

own_addresses() {
    hostname -I 2>/dev/null || ip -o addr show 2>/dev/null | awk '{sub("/.*", "", $4); print $4}'
}

# Whether an address belongs to this machine; all of 127.* do.
is_own() {
    local address
    [[ "$1" == localhost || "$1" == 127.* ]] && return 0
    for address in $(own_addresses); do
        [[ "$address" == "$1" ]] && return 0
    done
    return 1
}

# IPv4 address of an interface, or nothing if it has none.
address_of() {
    ip -o -4 addr show dev "$1" 2>/dev/null | awk '{sub("/.*", "", $4); print $4; exit}'
}

# Derive this node's address and the interfaces of HCCL and gloo from SOCKET_IFNAME; values that are already set win.
use_interface() {
    local address
    command -v ip >/dev/null || fail "SOCKET_IFNAME=$SOCKET_IFNAME requires the program ip (iproute2); alternatively set CURRENT_IP," \
        "HCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME"
    address="$(address_of "$SOCKET_IFNAME")"
    [[ -n "$address" ]] || fail "SOCKET_IFNAME=$SOCKET_IFNAME has no IPv4 address on this machine; run ip addr to list the interfaces"
    CURRENT_IP="${CURRENT_IP:-$address}"
    export HCCL_SOCKET_IFNAME="${HCCL_SOCKET_IFNAME:-$SOCKET_IFNAME}"
    export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$SOCKET_IFNAME}"
}

count_devices() {
    local devices=() shown
    if [[ -n "${ASCEND_RT_VISIBLE_DEVICES:-}" ]]; then
        IFS=, read -ra devices <<<"$ASCEND_RT_VISIBLE_DEVICES"
    else
        for shown in /dev/davinci[0-9]*; do
            [[ -e "$shown" ]] && devices+=("$shown")
        done
    fi
    echo "${#devices[@]}"
}

read_settings() {
    NNODES="${NNODES:-1}"
    require NPUS_PER_NODE
    require_number NNODES 1 100000
    require_number NPUS_PER_NODE 1 1024
    [[ -z "${SOCKET_IFNAME:-}" ]] || use_interface
    if ((NNODES == 1)); then
        MASTER_ADDR="${MASTER_ADDR:-${CURRENT_IP:-127.0.0.1}}"
        CURRENT_IP="${CURRENT_IP:-$MASTER_ADDR}"
    fi
    require MASTER_ADDR CURRENT_IP
    MASTER_PORT="${MASTER_PORT:-6344}"
    JOIN_TIMEOUT_S="${JOIN_TIMEOUT_S:-600}"
    require_number MASTER_PORT 1 65535
    ((10#$MASTER_PORT < 10001 || 10#$MASTER_PORT > 19999)) ||
        fail "MASTER_PORT=$MASTER_PORT lies within 10001 to 19999, from which Ray takes ports for its own processes; choose another"
    require_number JOIN_TIMEOUT_S 1 86400
    is_own "$CURRENT_IP" || fail "CURRENT_IP=$CURRENT_IP is not an address of this machine; its addresses are $(own_addresses)"
    DEVICE="${DEVICE:-npu}"
    case "$DEVICE" in
    cpu) ;;
    npu)
        local num_devices
        num_devices="$(count_devices)"
        ((num_devices >= NPUS_PER_NODE)) ||
            fail "NPUS_PER_NODE=$NPUS_PER_NODE, but this machine has $num_devices NPUs (/dev/davinci*, ASCEND_RT_VISIBLE_DEVICES);" \
                "lower it, or try the scripts with DEVICE=cpu"
        ;;
    *) fail "DEVICE should be npu or cpu, got '$DEVICE'" ;;
    esac
}
