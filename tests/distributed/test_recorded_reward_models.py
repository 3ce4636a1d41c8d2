"""Ten steps of reward-model training against the numbers recorded from TRL's RewardTrainer, under every layout.

How far a run may be from its recording is said in `tests.recordings.distances`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import convert_ckpt
from mindspeed_dpo.data.preprocessing.cli import parse
from mindspeed_dpo.data.preprocessing.pipeline import preprocess
from mindspeed_dpo.weights import open_weights
from tests.recordings.distances import UPDATE, misses, of_norms, of_steps, of_update, update_norms
from tests.recordings.files import DATA, POLICY, final_weights, in_float64, recording
from tests.recordings.reward_model.cases import FOLDER
from tests.recordings.reward_model.replay import initial_weights, model_folder
from tests.support.recorded_layouts import EXPERT_LAYOUTS, LAYOUTS
from tests.support.runs import tiny_run, train

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

RUNS = [
    *(("llama", layout) for layout in ("TP1", "TP2+SP", "PP2", "DP2", "CP2", "packed")),
    ("llama_margin_centred", "unshared"),
    ("qwen3_moe", "EP2"),
]


@cache
def token_files(data: str) -> Path:
    """Prefix of the token files of a recorded data file, with its margins."""
    prefix = Path(mkdtemp(prefix="reward_rows_")) / "pairs"
    columns = {"prompt": "prompt", "query": "", "chosen": "chosen", "rejected": "rejected"}
    arguments = [f"--input={DATA / data}", f"--output-prefix={prefix}", f"--map-keys={json.dumps(columns)}"]
    arguments += ["--handler-name=AlpacaStylePairwiseHandler", "--prompt-type=plain"]
    arguments += [f"--tokenizer-name-or-path={POLICY}"]
    arguments += ["dataset_additional_keys=margin"] if "margins" in data else []
    preprocess(parse(arguments, prefix.parent).settings)
    return prefix


def keys_of(case: str, folder: Path) -> dict[str, Any]:
    """Keys of the configuration that describe a case; `folder` is where the run writes."""
    recorded = recording(case, FOLDER)
    hyper, weights = recorded["hp"], model_folder(recorded)
    model = open_weights(weights).model_config().as_dict()
    return {
        "stage": "rm",
        "data_path": token_files(recorded["data"]),
        "tokenizer_name_or_path": POLICY,
        "load": weights,
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
        "center_rewards_coefficient": recorded["options"]["center_rewards_coefficient"],
        **({"margin_column": "margin"} if "margins" in recorded["data"] else {}),
        **{key: value for key, value in model.items() if value is not None},
    }


def as_logged_by_trl(step: dict[str, float]) -> dict[str, float]:
    renamed = {"accuracy": step["rewards/accuracies"], "margin": step["rewards/margins"]}
    renamed["mean_reward"] = (step["rewards/chosen"] + step["rewards/rejected"]) / 2
    return {**renamed, **{name: step[name] for name in ("loss", "grad_norm", "learning_rate", "num_tokens")}}


@pytest.mark.parametrize(("case", "layout"), RUNS)
def test_training_follows_the_recording(case: str, layout: str, tmp_path: Path) -> None:
    sizes, settings = (EXPERT_LAYOUTS if case == "qwen3_moe" else LAYOUTS)[layout]
    run = tiny_run(sizes, **{**keys_of(case, tmp_path), **settings})
    assert run.ref is None
    steps = [as_logged_by_trl(step) for step in train(run)]
    theirs = recording(case, FOLDER)
    source = open_weights(tmp_path / "checkpoints")
    assert source.is_reward_model
    final, initial = dict(source.hf_tensors(source.model_config())), initial_weights(theirs)
    actual = of_steps(steps, theirs["steps"], steps[0])
    actual["run"]["update norms"] = of_norms(update_norms(final, initial), theirs[UPDATE])
    stored = final_weights(case, FOLDER)
    if stored is not None:
        actual["run"][UPDATE] = of_update(final, stored, initial)
    missed = misses(actual, in_float64(case, FOLDER)["distance"])
    assert not missed, "\n".join([f"{case} is too far from its recording", *missed])
    # Whatever the recording's own error is.
    assert max(actual["first"].values()) < 1e-5 and max(actual["run"].values()) < 3e-4
    if (case, layout) == ("llama", "PP2"):
        check_conversion(tmp_path)


def check_conversion(folder: Path) -> None:
    """The trained checkpoint becomes a classifier of transformers, and comes back bit by bit through rank files."""
    to_hf = ["--save-model-type=hf", "--load-model-type=mg", "--orm"]
    first = [*to_hf, f"--load-dir={folder / 'checkpoints'}", f"--save-dir={folder / 'hf'}"]
    ranks = ["--load-model-type=hf", "--save-model-type=mg", "--orm", "--target-tensor-parallel-size=2"]
    ranks += [f"--load-dir={folder / 'hf'}", f"--save-dir={folder / 'mg'}"]
    second = [*to_hf, f"--load-dir={folder / 'mg'}", f"--save-dir={folder / 'again'}"]
    assert [convert_ckpt.main(arguments) for arguments in (first, ranks, second)] == [0, 0, 0]
    once, twice = (load_file(folder / name / "model.safetensors") for name in ("hf", "again"))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(model).__name__ == "LlamaForSequenceClassification" and model.config.num_labels == 1
    assert torch.equal(model.score.weight, once["score.weight"])
