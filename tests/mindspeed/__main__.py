"""One process: starts up with the real MindSpeed of TEST_MINDSPEED, or plainly, trains a step, and tells it in JSON.

python -m tests.mindspeed npu|cpu --some-flag value
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from mindspeed_dpo.device import activate, cpu
from mindspeed_dpo.parallel.store import host_store
from tests.support.process_state import process_state

SETTINGS = {
    "seq_length": 64,
    "num_attention_heads": 4,
    "tensor_model_parallel_size": 1,
    "variable_seq_lengths": False,
}


def main() -> None:
    """Start up, train, tell."""
    report: dict[str, Any] = {}
    if sys.argv[1] == "npu":
        sys.path.insert(0, os.environ["TEST_MINDSPEED"])
        importlib.import_module("tests.mindspeed.stand_in").install()
        before = process_state()
        activate("npu", 0, SETTINGS)
        report["unchanged"] = {name: value == before[name] for name, value in process_state().items()}
        patches = importlib.import_module("mindspeed.patch_utils").MindSpeedPatchesManager.patches_info
        report["patches"] = len(patches)
        # What torch_npu's transfer module does for a device, these do for the host.
        cpu.install()
    else:
        activate("cpu")
    groups = importlib.import_module("mindspeed_dpo.parallel.groups")
    store = host_store(0)
    groups.join(0, 1, f"127.0.0.1:{store.port}", "gloo", 2.0, store)
    jobs = importlib.import_module("tests.unit.engine.engine_jobs")
    gradient, loss = jobs.gradient_and_loss(jobs.Setup())
    report["loss"] = loss
    report["norms"] = {name: float(value.norm()) for name, value in gradient.items()}
    report["steps"] = jobs.train(jobs.build(jobs.Setup()), jobs.Setup(), 3)
    sys.stdout.write("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
