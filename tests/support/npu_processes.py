"""A process of a pool on the reference NPU: the start-up of a worker, with the reference torch_npu and MindSpeed.

It imports nothing of megatron-core before the device is active, which a process of a pool otherwise would.
"""

from __future__ import annotations

import importlib
import sys
from multiprocessing.connection import Connection
from pathlib import Path

REFERENCE = Path(__file__).with_name("reference_npu")
SETTINGS = {"seq_length": 64, "num_attention_heads": 4, "tensor_model_parallel_size": 2, "variable_seq_lengths": True}
"""What another role may have been told before: each one that is a megatron setting is injected into later configs."""


def serve_on_npu(rank: int, world_size: int, end: Connection) -> None:
    """Activate the reference NPU, then work as every process of a pool does."""
    sys.path.insert(0, str(REFERENCE))
    device = importlib.import_module("mindspeed_dpo.device")
    accelerator = device.activate("npu", rank, SETTINGS)
    importlib.import_module("tests.support.processes").work(rank, world_size, end, accelerator)
