"""TRL's side of `online.py`; runs in TRL's environment and prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from online_reward import vowels
from phases import Phases
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl_watch import StepTimer


class MeasuredTrainer(OnlineDPOTrainer):
    """TRL's unchanged trainer, with timers around its phases."""

    spent = Phases()
    prompt_tokens = response_tokens = 0

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self.spent("generate"):
            generated = super()._generate(*args, **kwargs)
        _, prompt_mask, _, response_mask, _ = generated
        self.prompt_tokens += int(prompt_mask.sum())
        self.response_tokens += int(response_mask.sum())
        return generated

    def _forward(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if model is not self.ref_model:
            return super()._forward(model, *args, **kwargs)
        with self.spent("reference"):
            return super()._forward(model, *args, **kwargs)

    def _calculate_rewards_from_functions(self, *args: Any, **kwargs: Any) -> Any:
        with self.spent("score"):
            return super()._calculate_rewards_from_functions(*args, **kwargs)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    settings = OnlineDPOConfig(
        output_dir=str(options.folder / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.batch // options.micro_batch,
        max_steps=options.steps, max_length=options.max_prompt + options.max_new, max_new_tokens=options.max_new,
        temperature=options.temperature, learning_rate=1e-6, lr_scheduler_type="constant", logging_steps=1,
        save_strategy="no", report_to=[], beta=0.1, train_sampling_strategy="sequential",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(options.folder / "hf", dtype=getattr(torch, options.dtype))
    data = load_dataset("json", data_files=str(options.folder / "trl.jsonl"), split="train",
                        cache_dir=str(options.folder / "cache"))  # fmt: skip
    timer = StepTimer()
    trainer = MeasuredTrainer(
        model, reward_funcs=vowels, args=settings, train_dataset=data, callbacks=[timer],
        processing_class=AutoTokenizer.from_pretrained(options.folder / "hf"),
    )  # fmt: skip
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({
        **timer.used, **trainer.spent.seconds,
        "update": timer.used["cpu_s"] - sum(trainer.spent.seconds.values()),
        "pairs": options.steps * options.batch, "first_loss": logged[0],
        # Each prompt is counted once per response.
        "prompt_tokens": trainer.prompt_tokens // 2, "response_tokens": trainer.response_tokens,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--temperature", type=float, required=True)
    for name in ("threads", "steps", "batch", "micro-batch", "max-prompt", "max-new"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
