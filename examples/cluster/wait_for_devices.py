"""Wait until a Ray cluster has a given number of NPUs, and report progress.

python examples/cluster/wait_for_devices.py ADDRESS COUNT TIMEOUT_S

The exit code is 0 if they have joined, 1 if they have not in time or Ray is unreachable.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack

import ray

from mindspeed_dpo.controller.ray_connection import ClusterError, join_raylet, raylet_at

PAUSE_S = 2.0


def connect(address: str, end_s: float, stack: ExitStack) -> bool:
    """Connect until the stack closes, with retries until `end_s`, as a busy machine starts Ray slowly.

    Returns:
        Whether the cluster responded; otherwise the error is printed.
    """
    while True:
        try:
            stack.enter_context(join_raylet(raylet_at(address)))
        except ClusterError as error:
            if time.monotonic() > end_s:
                print(f"error: {error}", file=sys.stderr)
                return False
            time.sleep(PAUSE_S)
        else:
            return True


def count_npus() -> int:
    """Return the number of NPUs on live nodes."""
    return int(sum(node["Resources"].get("NPU", 0) for node in ray.nodes() if node["Alive"]))


def wait(count: int, end_s: float) -> int:
    """Wait for `count` NPUs until `end_s`, print each change, and return the number that have joined."""
    reported = -1
    while (joined := count_npus()) < count and time.monotonic() < end_s:
        if joined != reported:
            print(f"{joined} of {count} NPUs have joined; waiting for the other nodes", flush=True)
            reported = joined
        time.sleep(PAUSE_S)
    return joined


def main() -> int:
    """Wait for the devices and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="host:port of the head node's Ray")
    parser.add_argument("count", type=int, help="number of NPUs in the cluster")
    parser.add_argument("timeout_s", type=float, help="maximum time to wait, in seconds")
    options = parser.parse_args()
    end_s = time.monotonic() + options.timeout_s
    with ExitStack() as stack:
        if not connect(options.address, end_s, stack):
            return 1
        joined = wait(options.count, end_s)
    if joined < options.count:
        print(
            f"error: {joined} of {options.count} NPUs joined within {options.timeout_s:g} s; start the same script on "
            "every node, with the same NNODES, NPUS_PER_NODE, MASTER_ADDR and MASTER_PORT",
            file=sys.stderr,
        )
        return 1
    print(f"all {options.count} NPUs have joined", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
