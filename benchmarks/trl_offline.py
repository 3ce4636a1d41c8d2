"""TRL's side of `offline.py`; runs in TRL's environment and prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl_watch import StepTimer

RESPONSES = ("chosen", "rejected")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    is_best = options.side == "trl-best"
    data = load_dataset("json", data_files=str(options.folder / "trl.jsonl"), split="train",
                        cache_dir=str(options.folder / "cache"))  # fmt: skip
    pairs = len(data) // options.batch * options.batch
    settings = DPOConfig(
        output_dir=str(options.folder / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.batch // options.micro_batch,
        max_steps=pairs // options.batch, max_length=options.max_length, learning_rate=1e-6,
        lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[], beta=0.1,
        precompute_ref_log_probs=is_best, train_sampling_strategy="sequential",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(options.folder / "hf", dtype=getattr(torch, options.dtype))
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "hf")
    data = data.select(range(pairs))
    if is_best:
        data = sorted_by_length(data, tokenizer)
    timer = StepTimer()
    trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[timer])
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({**timer.used, "pairs": pairs, "peak_mib": peak, "first_loss": logged[0], "last_loss": logged[-1]})
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("trl", "trl-tuned", "trl-best"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    for name in ("threads", "batch", "micro-batch", "max-length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


def sorted_by_length(data: Dataset, tokenizer: Any) -> Dataset:
    """Sort pairs by the longer sequence of each, longest first, so that the pairs of a batch have similar lengths.

    TRL's own grouping sorts up to 50 batches at a time, but only two with as few pairs as are measured here.
    """

    def length(row: dict[str, Any]) -> dict[str, int]:
        texts = [tokenizer.apply_chat_template(row["prompt"] + row[name], tokenize=False) for name in RESPONSES]
        return {"length": max(map(len, tokenizer(texts)["input_ids"]))}

    return data.map(length).sort("length", reverse=True).remove_columns("length")


if __name__ == "__main__":
    main()
