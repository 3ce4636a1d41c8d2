"""Wait until a Ray cluster has so many NPUs, and tell how many there are meanwhile.

python examples/cluster/wait_for_devices.py ADDRESS COUNT TIMEOUT_S

Exit code 0 when they are there, 1 when they did not come in time or Ray does not answer.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

import ray

PAUSE_S = 2.0


def connect(address: str, end_s: float) -> bool:
    """Connect, trying again until the time is up: a busy machine takes its time; tells why it did not work."""
    while True:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if time.monotonic() > end_s:
                print(f"error: no Ray answers at {address}: {error}", file=sys.stderr)
                return False
            time.sleep(PAUSE_S)
        else:
            return True


def count_npus() -> int:
    """NPUs of the nodes that live."""
    return int(sum(node["Resources"].get("NPU", 0) for node in ray.nodes() if node["Alive"]))


def wait(count: int, end_s: float) -> int:
    """NPUs there at the end of waiting, told whenever their number changes."""
    told = -1
    while (found := count_npus()) < count and time.monotonic() < end_s:
        if found != told:
            print(f"{found} of {count} NPUs have joined; waiting for the other nodes", flush=True)
            told = found
        time.sleep(PAUSE_S)
    return found


def main() -> int:
    """Wait, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="host:port of the head node's Ray")
    parser.add_argument("count", type=int, help="NPUs of the whole cluster")
    parser.add_argument("timeout_s", type=float, help="seconds to wait at most")
    options = parser.parse_args()
    end_s = time.monotonic() + options.timeout_s
    if not connect(options.address, end_s):
        return 1
    found = wait(options.count, end_s)
    ray.shutdown()
    if found < options.count:
        print(
            f"error: {found} of {options.count} NPUs joined within {options.timeout_s:g} s; start the same script on "
            "every node, with the same NNODES, NPUS_PER_NODE, MASTER_ADDR and MASTER_PORT",
            file=sys.stderr,
        )
        return 1
    print(f"all {options.count} NPUs are there", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
