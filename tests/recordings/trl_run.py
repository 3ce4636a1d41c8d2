"""One case as TRL's DPOTrainer runs it, with everything about it that is recorded. Needs TRL 1.16."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tests.recordings.batches import of_case
from tests.recordings.files import POLICY, read_rows, role_folder
from tests.recordings.training import Replayed


def run(case: dict[str, Any], scratch: str) -> Replayed:
    """Train with TRL on one CPU core; `case` holds its settings, `scratch` is a folder for what TRL writes."""
    hyper = case["hp"]
    rows = [{**row, "row": place} for place, row in enumerate(read_rows(case["data"]))]
    log = _Log()
    # The reference is passed explicitly: TRL would load it again by name otherwise.
    trainer = _Recorder(
        model=_model(role_folder(case, "policy")), ref_model=_model(role_folder(case, "reference")),
        args=_arguments(case, scratch), callbacks=[log],
        processing_class=AutoTokenizer.from_pretrained(POLICY), train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    trainer.case, trainer.records = case, []
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints every log line
        trainer.train()
    assert len(log.steps) == hyper["max_steps"]
    final = _stored(trainer.model, Path(scratch) / "final")
    first = next(step for step, logged in enumerate(log.steps) if logged["loss"] != 0)
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            value.copy_(log.gradients[first][name])
    return Replayed(log.steps, trainer.records, first, _stored(trainer.model, Path(scratch) / "gradient"), final)


def _stored(model: Any, folder: Path) -> dict[str, Tensor]:
    """The tensors as they are written: transformers has the experts of a layer in one tensor, its files do not."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


class _Recorder(DPOTrainer):
    """Notes of every micro-batch what enters the loss, and the loss."""

    case: dict[str, Any]
    records: list[dict[str, Any]]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        with _token_logps(self.model, self.ref_model) as of_tokens, _gathered(self.accelerator) as gathered:
            loss = super().compute_loss(model, inputs, *args, **options)
        # The trainer's last six gathers: rewards chosen and rejected, accuracies, margins, logps chosen and rejected.
        policy, rewards = gathered[-2:], gathered[-6:-4]
        if "ref_chosen_logps" in inputs:
            reference = [inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]
        else:
            mask = inputs["completion_mask"][:, 1:]
            reference = _summed(of_tokens[1][:, -mask.size(1) :], mask, self.case["options"]["ld_alpha"])
        for ours, theirs, reward in zip(policy, reference, rewards, strict=True):
            torch.testing.assert_close(self.case["options"]["beta"] * (ours - theirs), reward, rtol=1e-5, atol=1e-6)
        columns = zip(("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"),
                      (*policy, *reference), strict=True)  # fmt: skip
        self._note(inputs, {"loss": loss.item()} | {name: column.tolist() for name, column in columns})
        return loss

    def _note(self, inputs: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Keep a record; the tokens have to be those that are made of the rows without TRL."""
        expected = of_case(self.case)[len(self.records)]
        names = ("input_ids", "attention_mask", "completion_mask")
        for name, tokens in zip(names, (expected.ids, expected.attention, expected.response), strict=True):
            assert torch.equal(inputs[name], tokens), f"{name} of micro-batch {len(self.records)}"
        self.records.append({"rows": expected.rows, **record})


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


@contextlib.contextmanager
def _token_logps(*models: torch.nn.Module | None) -> Any:
    """The log-probabilities of single tokens that the models' fused heads give meanwhile."""
    actual: list[Tensor] = []

    def note(module: Any, positional: Any, options: dict[str, Any], output: Any) -> None:
        if options.get("fused_lm_head"):
            actual.append(output.log_probs.detach().clone())

    hooks = [model.register_forward_hook(note, with_kwargs=True) for model in models if model is not None]
    try:
        yield actual
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _gathered(accelerator: Any) -> Any:
    """What the trainer gathers over its processes meanwhile."""
    actual: list[Tensor] = []
    original = accelerator.gather

    def gather(value: Tensor) -> Tensor:
        actual.append(value.detach().clone())
        return original(value)

    accelerator.gather = gather
    try:
        yield actual
    finally:
        del accelerator.gather


def _summed(logps: Tensor, mask: Tensor, ld_alpha: float | None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of responses; with `ld_alpha` those past the pair's shorter one weigh as much."""
    if ld_alpha is None:
        chosen, rejected = logps.sum(1).chunk(2)
        return chosen, rejected
    place, shorter = mask.cumsum(1), torch.minimum(*mask.sum(1).chunk(2)).repeat(2)[:, None]
    within = (logps * ((place > 0) & (place <= shorter))).sum(1)
    chosen, rejected = (within + ld_alpha * (logps * (place > shorter)).sum(1)).chunk(2)
    return chosen, rejected


def _model(folder: Any) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def _arguments(case: dict[str, Any], scratch: str) -> DPOConfig:
    hyper = case["hp"]
    return DPOConfig(
        output_dir=scratch, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, disable_dropout=True,
        per_device_train_batch_size=hyper["batch_size"], gradient_accumulation_steps=hyper["accumulation"],
        max_steps=hyper["max_steps"], learning_rate=hyper["lr"], lr_scheduler_type=hyper["schedule"],
        warmup_steps=hyper["warmup_steps"], weight_decay=hyper["weight_decay"], adam_beta1=hyper["betas"][0],
        adam_beta2=hyper["betas"][1], adam_epsilon=hyper["eps"], max_grad_norm=hyper["max_grad_norm"],
        optim="adamw_torch", seed=123, data_seed=123, train_sampling_strategy="sequential", logging_steps=1,
        logging_nan_inf_filter=False, report_to=[], save_strategy="no", disable_tqdm=True, dataloader_num_workers=0,
        dataloader_pin_memory=False, max_length=case["max_length"], **case["options"],
    )  # fmt: skip
