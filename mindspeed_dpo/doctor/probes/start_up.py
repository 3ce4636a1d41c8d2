"""A worker's start on its device, asked is `kind`: libraries, patches, megatron-core, in the order that works."""

from __future__ import annotations

import importlib

from mindspeed_dpo.doctor.processes import answer, question

if __name__ == "__main__":
    accelerator = importlib.import_module("mindspeed_dpo.device").activate(question()["kind"])
    importlib.import_module("mindspeed_dpo.parallel.groups")
    answer(f"{accelerator.kind} is active, then megatron-core loads; transport {accelerator.backend}")
