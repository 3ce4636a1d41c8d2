"""Imported by the template of the host's processes: megatron-core as a worker has it, and what jobs of tests use."""

from __future__ import annotations

import importlib

from mindspeed_dpo.device import activate

activate("cpu")
for _name in (
    "tests.support.processes",
    "tests.support.jobs",
    "tests.support.runs",
    "mindspeed_dpo.data.preprocessing.pipeline",
    "transformers.models.llama.modeling_llama",
    "pytest",
):
    importlib.import_module(_name)
