"""What end-to-end tests share: a Ray cluster, and inputs and a run of the repository's own making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ray_cluster, succeed, training
from tests.support.conversions import preprocessing, to_mcore


@dataclass(frozen=True)
class OwnRun:
    """Inputs and a finished run over 24 steps on TP2, made by the commands from the examples' model and pairs.

    Attributes:
        preferences: Raw pairs.
        model: Hugging Face folder with a tokenizer.
        weights: The same as Megatron-core weights for TP2.
        pairs: Prefix of the pairs as tokens.
        keys: Settings of the run; others can be put on top.
        output_dir: What the run wrote.
    """

    preferences: Path
    model: Path
    weights: Path
    pairs: Path
    keys: dict[str, Any]
    output_dir: Path


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> OwnRun:
    """A run that needs nothing from outside; Ray is started by the command itself."""
    folder = tmp_path_factory.mktemp("own")
    preferences, model, pairs, output_dir = (folder / name for name in ("pairs.jsonl", "hf", "tokens/pairs", "run"))
    succeed("examples/tiny/make_preferences.py", preferences)
    succeed("examples/tiny/make_model.py", model)
    succeed("preprocess_data.py", *preprocessing(preferences, model, pairs))
    weights = to_mcore(model, folder / "mcore", (2, 1, 1))
    keys = {
        "tokenizer_name_or_path": model,
        "load": weights,
        "data_path": pairs,
        "reference_cache_dir": folder / "cache",
        "train_iters": 24,
        "lr_decay_iters": 24,
        "eval_interval": 8,
        "save_interval": 12,
    }
    succeed(*training((2, 1, 1), **keys, sequence_parallel=True, output_dir=output_dir))
    return OwnRun(preferences, model, weights, pairs, keys, output_dir)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster with four free slots for processes, for runs that need not start their own."""
    with ray_cluster(num_cpus=4) as address:
        yield address
