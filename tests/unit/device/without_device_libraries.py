"""Does all that needs no device, and reports in JSON how each step ended.

python -m tests.unit.device.without_device_libraries FOLDER
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import convert_ckpt
import mindspeed_dpo
import preprocess_data
import ray_gpt
from mindspeed_dpo.device import activate

# Above is what a user's commands import first.
from tests.support.conversions import preprocessing, to_hf_arguments, to_mcore_arguments


def main() -> None:
    """Preprocess, convert there and back, plan a run on devices that are not there, import every module."""
    folder = Path(sys.argv[1])
    hf, mcore, pairs = folder / "hf", folder / "mcore", folder / "made"
    plan = ["--config-name", "offline_dpo_trainer_tiny", "plan=true", "training.device=npu"]
    plan += ["training.distributed_backend=auto"]
    plan += [f"actor_rollout_ref.actor_rollout.{key}={value}" for key, value in (("load", hf), ("data_path", pairs))]
    codes = {
        "preprocess": preprocess_data.main(preprocessing(folder / "raw.jsonl", folder / "tokenizer", pairs)),
        "to Megatron-core": convert_ckpt.main(to_mcore_arguments(hf, mcore, (2, 1, 1))),
        "to Hugging Face": convert_ckpt.main(to_hf_arguments(mcore, folder / "back")),
        "plan": ray_gpt.main([*plan, f"training.tokenizer_name_or_path={folder / 'tokenizer'}"]),
    }
    activate("cpu")
    for module in pkgutil.walk_packages(mindspeed_dpo.__path__, "mindspeed_dpo."):
        # Trackers wrap optional libraries; models of transformers, with which classifiers score, look for torch_npu;
        # the server of vLLM runs where vLLM is.
        left_out = (
            ".__main__",
            ".swanlab",
            ".mlflow",
            ".wandb",
            ".hf_classifier",
            ".vllm_engine.server",
            ".vllm_engine.served_engine",
            ".vllm_engine.loading",
        )
        if not module.name.endswith(left_out):
            importlib.import_module(module.name)
    sys.stderr.write("\n" + json.dumps(codes))


if __name__ == "__main__":
    main()
