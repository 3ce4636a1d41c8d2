"""The runs whose sensitivity is measured, by the name of the bound in `closeness.py` that is for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindspeed_dpo.config.run import RunConfig
from tests.support.adapters import adapter_run, save_tiny_policy
from tests.support.closeness import STEADY, STEADY_ADAPTERS
from tests.support.commands import succeed
from tests.support.conversions import preprocessing
from tests.support.recorded_runs import recorded_run
from tests.support.runs import tiny_run
from tests.unit.engine import checkpoint_jobs, engine_jobs, virtual_jobs
from tests.unit.engine.engine_jobs import Setup
from tests.unit.engine.virtual_jobs import Deep
from tests.unit.workers.pairs import random_run

MakeRun = Callable[[Path], RunConfig]
EngineJob = Callable[[int], tuple[list[float], list[Tensor]]]
LOSSES: tuple[dict[str, Any], ...] = (
    {},
    {"use_weighting": True, "ld_alpha": 0.3, "pref_ftx": 0.1},
    {"dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "beta_dpo_alpha": 0.6},
)


def nudge(model: nn.Module, draw: int) -> None:
    """Move each weight up or down by one unit in the last place; draw 0 moves none."""
    numbers = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        for weight in model.parameters() if draw else ():
            up = torch.rand(weight.shape, generator=numbers) < 0.5
            weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf)))


def weights(model: nn.Module) -> Tensor:
    """All weights in one vector."""
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


def full(folder: Path, layers: int | None, loss: dict[str, Any]) -> RunConfig:
    """Four steps of all weights, drawn at random, or loaded with weights ten times as large."""
    keys = {"reference": "live", "log_token_statistics": True, "global_batch_size": 4, "lr_warmup_iters": 0}
    if layers is not None:
        keys |= {"load": save_tiny_policy(folder / "hf", layers=layers), "num_layers": layers}
        keys |= {"random_init": False, "finetune": True}
    return random_run(folder, **keys, **loss, **STEADY)


def adapters(folder: Path) -> RunConfig:
    """Four steps of adapters."""
    return adapter_run(folder, save_tiny_policy(folder / "hf"), **{**STEADY_ADAPTERS, "global_batch_size": 2})


def recorded(folder: Path, case: str) -> RunConfig:
    """The ten steps of a recording, with its own settings."""
    return recorded_run(case, (1, 1, 1), folder)


def shipped(folder: Path) -> RunConfig:
    """Twelve steps of the shipped example on its own pairs."""
    preferences, model, pairs = folder / "pairs.jsonl", folder / "hf", folder / "tokens" / "pairs"
    succeed("examples/tiny/make_preferences.py", preferences)
    succeed("examples/tiny/make_model.py", model)
    succeed("preprocess_data.py", *preprocessing(preferences, model, pairs))
    keys = {"tokenizer_name_or_path": model, "load": model, "data_path": pairs, "reference_cache_dir": folder / "cache"}
    keys |= {"train_iters": 12, "lr_decay_iters": 24, "save_interval": None, "output_dir": folder / "out"}
    return tiny_run(**keys)


def engine(draw: int, setup: Setup) -> tuple[list[float], list[Tensor]]:
    """Gradient norms of four steps; the update and, by parameter, Adam's moments."""
    built = engine_jobs.build(setup)
    nudge(built.model, draw)
    before = weights(built.model)
    norms = engine_jobs.train(built, setup, 4)
    states = [state for one in checkpoint_jobs.inner_optimizers(built) for state in one.state.values()]
    moments = [state[kind].double() for state in states for kind in ("exp_avg", "exp_avg_sq")]
    return norms, [weights(built.model) - before, *moments]


def virtual(draw: int) -> tuple[list[float], list[Tensor]]:
    """Gradient norms of three steps of eight layers; the scores of what was learned."""
    return virtual_jobs.norms(Deep(tied=True), 3, partial(nudge, draw=draw))


RUNS: dict[str, list[MakeRun]] = {
    "FULL": [partial(full, layers=layers, loss=loss) for layers in (None, 2, 4) for loss in LOSSES],
    "ADAPTERS": [adapters],
    "RECORDED": [partial(recorded, case=case) for case in ("sigmoid", "ipo", "sigmoid_trunc")],
    "SHIPPED": [shipped],
}
ENGINES: dict[str, list[EngineJob]] = {
    "ENGINE": [
        *(partial(engine, setup=Setup(clip_grad=norm, adam_eps=STEADY["adam_eps"])) for norm in (0.05, 0.0)),
        virtual,
    ]
}
