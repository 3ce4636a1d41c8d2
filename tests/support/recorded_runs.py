"""Runs that a recorded TRL case describes: their settings, their data, and the comparison with what was recorded.

How far a run may be from the recording is said in `tests.recordings.distances`.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.preprocessing.cli import parse
from mindspeed_dpo.data.preprocessing.pipeline import preprocess
from mindspeed_dpo.weights import open_weights
from tests.recordings.distances import UPDATE, Distances, misses, of_norms, of_steps, of_update, update_norms
from tests.recordings.files import DATA, POLICY, final_weights, in_float64, initial_weights, recording, role_folder
from tests.support.runs import Layout, tiny_run

ACCURACIES, AUX_LOSS = "rewards/accuracies", "aux_loss"
# Token statistics are not among them: TRL averages over micro-batches, we over the tokens of the step.
COMPARED = (
    "loss", "grad_norm", "learning_rate", "num_tokens", "rewards/chosen", "rewards/rejected", ACCURACIES,
    "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
GROUPED = {"aot", "aot_unpaired", "sft"}
MAP_KEYS = {
    "plain": {"prompt": "prompt", "query": "", "chosen": "chosen", "rejected": "rejected"},
    "chat_template": {
        "messages": "prompt",
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}  # fmt: skip


def loss_keys(options: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recording's loss; TRL accepts settings where they have no effect, here that is an error."""
    types = tuple(options["loss_type"])
    keys: dict[str, Any] = {"dpo_loss_type": types, "dpo_beta": options["beta"]}
    if len(types) > 1:
        keys["loss_weights"] = tuple(options["loss_weights"] or (1.0,) * len(types))
    if options["label_smoothing"] and set(types) & {"robust", "exo_pair", "aot", "aot_unpaired"}:
        keys["dpo_label_smoothing"] = options["label_smoothing"]
    for key in ("use_weighting", "ld_alpha", "f_divergence_type", "router_aux_loss_coef"):
        if options.get(key):
            keys[key] = options[key]
    if options["f_divergence_type"] == "alpha_divergence":
        keys["f_alpha_divergence_coef"] = options["f_alpha_divergence_coef"]
    return keys


def preprocess_arguments(data: str, prefix: Path) -> list[str]:
    """Command-line arguments of `preprocess_data.py` that turn a recorded data file into token files."""
    template = "chat_template" if data.startswith("conv") else "plain"
    handler = "SharegptStylePairwiseHandler" if template == "chat_template" else "AlpacaStylePairwiseHandler"
    return [
        f"--input={DATA / data}",
        f"--output-prefix={prefix}",
        f"--handler-name={handler}",
        f"--prompt-type={template}",
        f"--tokenizer-name-or-path={POLICY}",
        f"--map-keys={json.dumps(MAP_KEYS[template])}",
    ]


@lru_cache(maxsize=4)
def token_files(data: str) -> Path:
    """Prefix of the token files of a recorded data file; they are made once in a process."""
    prefix = _scratch() / Path(data).stem
    preprocess(parse(preprocess_arguments(data, prefix), _scratch()).settings)
    return prefix


def recorded_keys(case: str, folder: Path) -> dict[str, Any]:
    """Keys of the configuration that describe a case; `folder` is where the run writes."""
    recorded = recording(case)
    hyper, options = recorded["hp"], recorded["options"]
    return {
        "data_path": token_files(recorded["data"]),
        "tokenizer_name_or_path": POLICY,
        "load": role_folder(recorded, "policy"),
        "ref_model": role_folder(recorded, "reference"),
        "reference_cache_dir": folder / "cache",
        "output_dir": folder,
        "no_shuffle": True,
        "seq_length": recorded["max_length"],
        "global_batch_size": hyper["batch_size"] * hyper["accumulation"],
        "micro_batch_size": hyper["batch_size"],
        "train_iters": hyper["max_steps"],
        "lr": hyper["lr"],
        "lr_decay_style": hyper["schedule"],
        "lr_warmup_fraction": None,
        "lr_warmup_iters": hyper["warmup_steps"],
        "weight_decay": hyper["weight_decay"],
        "clip_grad": hyper["max_grad_norm"],
        "adam_beta1": hyper["betas"][0],
        "adam_beta2": hyper["betas"][1],
        "adam_eps": hyper["eps"],
        "no_save_optim": True,
        "truncation": "keep_start" if case == "sigmoid_trunc" else "cut_prompt",
        # Without a precomputed reference both compute at every step.
        "reference": "cached" if options["precompute_ref_log_probs"] else "live",
        # TRL sorts pairs and averages tokens within a micro-batch.
        **({"loss_group_size": hyper["batch_size"]} if GROUPED & set(options["loss_type"]) else {}),
        **loss_keys(options),
        **_model_keys(recorded),
    }


def _model_keys(recorded: dict[str, Any]) -> dict[str, Any]:
    """What the model of a case has other than the model file, which describes the Llama."""
    if "model" not in recorded:
        return {}
    described = open_weights(role_folder(recorded, "policy")).model_config().as_dict()
    return {key: value for key, value in described.items() if value is not None}


def recorded_run(case: str, layout: Layout, folder: Path, **settings: Any) -> RunConfig:
    """The run of a case, from its raw rows and its Hugging Face weights."""
    return tiny_run(layout, **{**recorded_keys(case, folder), **settings})


def compare(case: str, metrics: list[dict[str, float]], checkpoints: Path) -> None:
    """Hold a finished run's metrics and final weights against the recording."""
    missed = misses(from_recording(case, metrics, weights_of(checkpoints)), in_float64(case)["distance"])
    assert not missed, "\n".join([f"{case} is too far from its recording", *missed])


def from_recording(case: str, metrics: list[dict[str, float]], final: dict[str, Tensor]) -> Distances:
    """How far a finished run is from the recording: logged values, norms of the update, the update if stored."""
    theirs, initial = recording(case), initial_weights(recording(case))
    metrics = as_logged_by_trl(metrics, theirs)
    actual = of_steps(metrics, theirs["steps"], compared_values(theirs))
    _disregard_ties(actual, metrics, theirs)
    actual["run"]["update norms"] = of_norms(update_norms(final, initial), theirs[UPDATE])
    saved_weights = final_weights(case)
    if saved_weights is not None:
        actual["run"][UPDATE] = of_update(final, saved_weights, initial)
    return actual


def compared_values(recorded: dict[str, Any]) -> tuple[str, ...]:
    """Names of the logged values by which a run is compared with a recording."""
    return (*COMPARED, AUX_LOSS) if AUX_LOSS in recorded["steps"][0] else COMPARED


def as_logged_by_trl(metrics: list[dict[str, float]], recorded: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics with the balance loss of the routers under TRL's name, and added to the loss as TRL does."""
    coeff = recorded["options"].get("router_aux_loss_coef")
    if not coeff:
        return metrics
    of_routers = [step["moe/router_aux_loss"] for step in metrics]
    return [
        {**step, AUX_LOSS: aux, "loss": step["loss"] + coeff * aux}
        for step, aux in zip(metrics, of_routers, strict=True)
    ]


def _disregard_ties(actual: Distances, metrics: list[dict[str, float]], recorded: dict[str, Any]) -> None:
    """Leave pairs of equal responses out of the accuracy's distance.

    Truncation can make the responses of a pair equal. Its margin is then zero, and the sign that a processor's rounding
    gives it decides whether the pair counts as a success.
    """
    apart = [
        max(0.0, abs(ours[ACCURACIES] - theirs[ACCURACIES]) - ties)
        for ours, theirs, ties in zip(metrics, recorded["steps"], _tied_shares(recorded), strict=True)
    ]
    actual["first"][ACCURACIES], actual["run"][ACCURACIES] = apart[0], max(apart)


def _tied_shares(recorded: dict[str, Any]) -> list[float]:
    """For each step the share of pairs whose responses have the same log-probability, to the bit, under both models."""
    tied = [
        chosen == rejected and ref_chosen == ref_rejected
        for one in recorded["micro_batches"]
        for chosen, rejected, ref_chosen, ref_rejected in zip(
            one["chosen_logps"], one["rejected_logps"], one["ref_chosen_logps"], one["ref_rejected_logps"], strict=True
        )
    ]
    size = len(tied) // len(recorded["steps"])
    return [sum(tied[start : start + size]) / size for start in range(0, size * len(recorded["steps"]), size)]


def weights_of(checkpoints: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by their Hugging Face names."""
    source = open_weights(checkpoints)
    return dict(source.hf_tensors(source.model_config()))


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="recorded-")


def _scratch() -> Path:
    """A folder of this process that goes with it."""
    return Path(_folder().name)
