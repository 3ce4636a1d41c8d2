"""Starts up on the reference NPU, with our guards or without each of them, and reports in JSON which trap took effect.

python -m tests.unit.device.npu_traps guarded|bare --some-flag value
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import logging
import sys
from typing import Any

import torch

from mindspeed_dpo.device import npu
from tests.support.npu_processes import REFERENCE, SETTINGS
from tests.support.process_state import process_state

NUMPY = "2.1.0"


def main() -> None:
    """Start up and look around."""
    sys.path.insert(0, str(REFERENCE))
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(npu.__name__).addHandler(handler)
    numpy_version = importlib.metadata.version
    importlib.metadata.version = lambda name: NUMPY if name == "numpy" else numpy_version(name)
    if sys.argv[1] == "bare":
        _take_guards_out()
    before = process_state()
    npu.initialize(SETTINGS)
    changed = {name: value != before[name] for name, value in process_state().items()}
    seen = importlib.import_module("mindspeed.megatron_adaptor").seen
    report: dict[str, bool] = {
        "arguments reach MindSpeed": len(seen["argv"]) > 1,
        "root level": changed["level"],
        "root handlers": changed["handlers"],
        "warning filters": changed["warning filters"],
        "numpy is not reported": not any(NUMPY in sentence for sentence in messages),
        "float64 is taken": _takes_float64(),
        "settings reach a config": _config_sizes() != (1, False),
    }
    sys.stderr.write(json.dumps(report))


def _take_guards_out() -> None:
    npu._preserved_argv_and_logging = contextlib.nullcontext  # type: ignore[assignment]
    npu.guard_collectives = lambda: None
    npu._warn_of_numpy = lambda _version: None


def _takes_float64() -> bool:
    """Whether a sum of float64 gets as far as torch, which has no process group here."""
    try:
        torch.distributed.all_reduce(torch.ones(1, dtype=torch.float64))
    except TypeError:
        return False
    except ValueError:
        return True
    raise AssertionError("a sum without a process group")


def _config_sizes() -> tuple[int, bool]:
    """Tensor size and variable lengths of a config of ours for one device, or of one that names no sizes."""
    if sys.argv[1] == "bare":
        config_class = importlib.import_module("megatron.core.transformer.transformer_config").TransformerConfig
        config: Any = config_class(
            num_layers=1, hidden_size=8, num_attention_heads=4, moe_token_dispatcher_type="alltoall"
        )
    else:
        spec = importlib.import_module("mindspeed_dpo.models.layer_spec")
        topology = importlib.import_module("mindspeed_dpo.parallel.topology").Topology
        model = importlib.import_module("tests.unit.engine.engine_jobs").MODEL
        config = spec.transformer_config(model, spec.Execution(topology()))
    return config.tensor_model_parallel_size, config.variable_seq_lengths


if __name__ == "__main__":
    main()
