"""One process: starts up with the real MindSpeed of TEST_MINDSPEED, or plainly, trains a step, and reports it in JSON.

python -m tests.mindspeed npu|cpu --some-flag value
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from mindspeed_dpo.device import activate
from mindspeed_dpo.parallel.rendezvous_store import host_store
from tests.support.closeness import STEADY
from tests.support.npu_processes import start_up
from tests.support.process_state import process_state


def main() -> None:
    """Start up, train, report."""
    report: dict[str, Any] = {}
    if sys.argv[1] == "npu":
        before = process_state()
        start_up(0)
        report["unchanged"] = {name: value == before[name] for name, value in process_state().items()}
        patches = importlib.import_module("mindspeed.patch_utils").MindSpeedPatchesManager.patches_info
        report["patches"] = len(patches)
    else:
        activate("cpu")
    groups = importlib.import_module("mindspeed_dpo.parallel.process_groups")
    hosted = host_store()
    groups.join(0, 1, hosted.address, "gloo", 2.0, hosted.store)
    jobs = importlib.import_module("tests.unit.engine.engine_jobs")
    gradient, loss = jobs.gradient_and_loss(jobs.Setup())
    report["loss"] = loss
    report["norms"] = {name: float(value.norm()) for name, value in gradient.items()}
    steady = jobs.Setup(adam_eps=STEADY["adam_eps"])
    report["steps"] = jobs.train(jobs.build(steady), steady, 3)
    sys.stdout.write("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
