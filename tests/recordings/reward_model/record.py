"""Records TRL's RewardTrainer on tiny classifiers, in float32 on one CPU core.

    .venv-trl/bin/python -m tests.recordings.reward_model.record --out DIR [--cases llama]

The environment is that of `tests.recordings.record`. Writes what `tests/recordings/data/reward_model` holds of every
case: `cases/<case>.json`, for some `cases/<case>.final.safetensors`, and `float64/<case>.json`.
"""

from __future__ import annotations

import os
import tempfile

# Before the libraries are imported: nothing from the network, no GPU.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="record-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import atexit
import contextlib
import io
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

from tests.recordings.batches import fingerprint, of_case
from tests.recordings.distances import update_norms
from tests.recordings.files import POLICY, read_rows, write_compact
from tests.recordings.replay import float64_entry, norms
from tests.recordings.reward_model.cases import CASES, WITH_FINAL_WEIGHTS, settings
from tests.recordings.reward_model.replay import initial_weights, model_folder, replay
from tests.recordings.training import Replayed

PACKAGES = ("trl", "transformers", "tokenizers", "torch")


class _Recorder(RewardTrainer):
    """Notes the scores and the loss of every micro-batch."""

    case: dict[str, Any]
    records: list[dict[str, Any]]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        # The tokens have to be those that are made of the rows without TRL.
        expected = of_case(self.case)[len(self.records)]
        assert torch.equal(inputs["input_ids"], expected.ids)
        assert torch.equal(inputs["attention_mask"], expected.attention)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        chosen, rejected = outputs.logits.detach().squeeze(-1).chunk(2)
        record = {"loss": loss.item(), "chosen_scores": chosen.tolist(), "rejected_scores": rejected.tolist()}
        self.records.append({"rows": expected.rows, **record})
        return loss


class _Log(TrainerCallback):
    """Keeps what is logged of every step, and its clipped gradient."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.gradients.append({name: value.grad.detach().clone() for name, value in model.named_parameters()})

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        if "grad_norm" in logs:
            values = {name: value.item() if torch.is_tensor(value) else value for name, value in logs.items()}
            self.steps.append({name: value for name, value in values.items() if name != "epoch"})


def run(case: dict[str, Any], scratch: Path) -> Replayed:
    """Train with TRL; `case` holds its settings, `scratch` is a folder for what TRL writes."""
    log, model = _Log(), AutoModelForSequenceClassification.from_pretrained(
        model_folder(case), attn_implementation="eager", dtype=torch.float32
    )  # fmt: skip
    trainer = _Recorder(
        model=model, args=_arguments(case, scratch), processing_class=AutoTokenizer.from_pretrained(POLICY),
        train_dataset=Dataset.from_list(read_rows(case["data"])), callbacks=[log],
    )  # fmt: skip
    trainer.case, trainer.records = case, []
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints every log line
        trainer.train()
    final = _stored(trainer.model, scratch / "final")
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            value.copy_(log.gradients[0][name])
    return Replayed(log.steps, trainer.records, 0, _stored(trainer.model, scratch / "gradient"), final)


def _stored(model: Any, folder: Path) -> dict[str, Tensor]:
    """The tensors as they are written: transformers has the experts of a layer in one tensor, its files do not."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def _arguments(case: dict[str, Any], scratch: Path) -> RewardConfig:
    hyper = case["hp"]
    return RewardConfig(
        output_dir=str(scratch), use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
        disable_dropout=True, per_device_train_batch_size=hyper["batch_size"],
        gradient_accumulation_steps=hyper["accumulation"], max_steps=hyper["max_steps"], learning_rate=hyper["lr"],
        lr_scheduler_type=hyper["schedule"], warmup_steps=hyper["warmup_steps"], weight_decay=hyper["weight_decay"],
        adam_beta1=hyper["betas"][0], adam_beta2=hyper["betas"][1], adam_epsilon=hyper["eps"],
        max_grad_norm=hyper["max_grad_norm"], optim="adamw_torch", seed=123, data_seed=123,
        train_sampling_strategy="sequential", logging_steps=1, logging_nan_inf_filter=False, report_to=[],
        save_strategy="no", disable_tqdm=True, dataloader_num_workers=0, dataloader_pin_memory=False,
        max_length=case["max_length"], **case["options"],
    )  # fmt: skip


def write(out: Path, case: str, recorded: Replayed) -> str:
    """Write everything a recording consists of; the first and the last loss."""
    case_settings = settings(case)
    initial = initial_weights(case_settings)
    entry = {
        "case": case,
        "versions": {name: version(name).split("+")[0] for name in PACKAGES},
        **case_settings,
        "tokens": fingerprint(of_case(case_settings)),
        "steps": recorded.steps,
        "micro_batches": recorded.micro_batches,
        "gradient": {"step": recorded.gradient_step, "norms": norms(recorded.gradient)},
        "update": update_norms(recorded.final, initial),
    }
    write_compact(out / "cases" / f"{case}.json", entry)
    if case in WITH_FINAL_WEIGHTS:
        tensors = {name: value.contiguous() for name, value in recorded.final.items()}
        save_file(tensors, out / "cases" / f"{case}.final.safetensors", {"format": "pt"})
    exact = float64_entry(recorded, replay(case_settings, torch.float64), initial)
    write_compact(out / "float64" / f"{case}.json", exact)
    worst = {tier: max(figures.values()) for tier, figures in exact["distance"].items()}
    return f"loss {recorded.steps[0]['loss']:.6f} .. {recorded.steps[-1]['loss']:.6f}; from float64 {worst}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    arguments = parser.parse_args()
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in arguments.cases.split(","):
        recorded = run(settings(case), Path(os.environ["HF_HOME"]))
        print(f"{case:24} {write(arguments.out, case, recorded)}", flush=True)


if __name__ == "__main__":
    main()
