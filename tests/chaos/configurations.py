"""The runs of a series of kills: inputs, commands, and the uninterrupted run of each, made once per folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.support.commands import succeed, training
from tests.support.conversions import preprocessing
from tests.support.online_inputs import RULE, OnlineInputs, online_inputs
from tests.support.resuming import saved_iteration
from tests.support.runs import Layout, online_overrides

STEPS, SAVE_INTERVAL, EVAL_INTERVAL = 20, 4, 8
POOLS = {"ref": "[1]", "reward": "[1]"}
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "norm_topk_prob": True, "qk_layernorm": True,
    "moe_aux_loss_coeff": 0.01, "expert_model_parallel_size": 2,
}  # fmt: skip
OFFLINE: dict[str, tuple[Layout, dict[str, Any]]] = {
    "dp2 async": ((1, 1, 2), {"use_distributed_optimizer": True, "async_save": True}),
    "tp2": ((2, 1, 1), {}),
    "pp2": ((1, 2, 1), {}),
    "lora": ((1, 1, 1), {"lora_target_modules": ["all-linear"], "lora_r": 8, "lora_dropout": 0.05}),
    "experts ep2": ((1, 1, 2), EXPERTS),
}
ONLINE = "online stale"
DONE = "done"


@dataclass(frozen=True)
class Configuration:
    """A run that is killed again and again.

    Attributes:
        command: Its command line without output_dir.
        alone: Output folder of the uninterrupted run.
        killed: Output folder of the run that is killed.
        logs: Logs of its workers, each of another role or rank.
    """

    command: list[str]
    alone: Path
    killed: Path
    logs: list[str]

    @property
    def is_online(self) -> bool:
        """Whether reward functions are called."""
        return "reward_0.log" in self.logs

    def make_uninterrupted_run(self) -> None:
        """Run to the end, unless that was done before."""
        if saved_iteration(self.alone) < STEPS:
            shutil.rmtree(self.alone, ignore_errors=True)
            succeed(*self.command, f"training.output_dir={self.alone}")


def make_configurations(folder: Path) -> dict[str, Configuration]:
    """Make inputs that the folder does not have yet, and return the configurations by name."""
    inputs = folder / "inputs"
    if not (inputs / DONE).is_file():
        shutil.rmtree(inputs, ignore_errors=True)
        _make_inputs(inputs)
        (inputs / DONE).touch()
    weights = {"experts ep2": inputs / "experts"}
    commands = {
        name: _offline(inputs, weights.get(name, inputs / "hf"), layout, more)
        for name, (layout, more) in OFFLINE.items()
    }
    logs = {
        name: [f"actor_rollout_{rank}.log" for rank in range(tp * pp * dp)]
        for name, ((tp, pp, dp), _) in OFFLINE.items()
    }
    commands[ONLINE] = _online(OnlineInputs(inputs / "online" / "hf", inputs / "online" / "tokens" / "prompts"))
    logs[ONLINE] = [f"{pool}_0.log" for pool in ("actor_rollout", "rollout", *POOLS)]
    folders = {name: folder / name.replace(" ", "_") for name in commands}
    return {
        name: Configuration(command, folders[name] / "alone", folders[name] / "killed", logs[name])
        for name, command in commands.items()
    }


def _make_inputs(inputs: Path) -> None:
    (inputs / "online").mkdir(parents=True)
    succeed("examples/tiny/make_preferences.py", inputs / "pairs.jsonl")
    succeed("examples/tiny/make_model.py", inputs / "hf")
    _make_experts(inputs / "experts", seed=0)
    succeed("preprocess_data.py", *preprocessing(inputs / "pairs.jsonl", inputs / "hf", inputs / "tokens" / "pairs"))
    online_inputs(inputs / "online")


def _make_experts(folder: Path, seed: int) -> None:
    """Save a Qwen3-MoE with random weights, of the sizes of the dense model and `EXPERTS`."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=262,
        hidden_size=64,
        intermediate_size=176,
        moe_intermediate_size=EXPERTS["moe_ffn_hidden_size"],
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=EXPERTS["num_experts"],
        num_experts_per_tok=EXPERTS["moe_router_topk"],
        norm_topk_prob=EXPERTS["norm_topk_prob"],
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    Qwen3MoeForCausalLM(config).to(torch.float32).save_pretrained(folder)


def _offline(inputs: Path, weights: Path, layout: Layout, more: dict[str, Any]) -> list[str]:
    return training(
        layout,
        tokenizer_name_or_path=inputs / "hf",
        load=weights,
        data_path=inputs / "tokens" / "pairs",
        reference_cache_dir=inputs / "cache",
        train_iters=STEPS,
        lr_decay_iters=STEPS,
        save_interval=SAVE_INTERVAL,
        eval_interval=EVAL_INTERVAL,
        tensorboard=False,
        **more,
    )


def _online(inputs: OnlineInputs) -> list[str]:
    keys = {
        **inputs.keys, "train_iters": STEPS, "save_interval": SAVE_INTERVAL, "global_batch_size": 4,
        "micro_batch_size": 2, "n_samples_per_prompt": 3, "reward_functions": [RULE], "rollout_staleness": 1,
        "num_gpus_for_infer": 1, "async_save": True,
    }  # fmt: skip
    return ["ray_gpt.py", "--config-name", "online_dpo_trainer_tiny", *online_overrides((1, 1, 1), POOLS, **keys)]
