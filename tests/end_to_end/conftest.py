"""What end-to-end tests share: a Ray cluster, and inputs and a run of the repository's own making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import preprocess_data
from tests.support.commands import ray_cluster, run_here, training
from tests.support.conversions import convert_to_mcore, preprocessing
from tests.support.runs import Layout
from tests.support.terminals import run_on_terminal


@dataclass(frozen=True)
class OwnInputs:
    """Inputs made from the examples' model and pairs, in this process.

    Attributes:
        preferences: Raw pairs.
        model: Hugging Face folder with a tokenizer.
        weights: The same as Megatron-core weights.
        pairs: Prefix of the pairs as tokens.
    """

    preferences: Path
    model: Path
    weights: Path
    pairs: Path

    @classmethod
    def make(cls, folder: Path, layout: Layout) -> OwnInputs:
        """Make them in a folder, with weights for a layout."""
        preferences, model, pairs = (folder / name for name in ("pairs.jsonl", "hf", "tokens/pairs"))
        run_here("examples/tiny/make_preferences.py", preferences)
        run_here("examples/tiny/make_model.py", model)
        assert preprocess_data.main(preprocessing(preferences, model, pairs)) == 0
        return cls(preferences, model, convert_to_mcore(model, folder / "mcore", layout), pairs)

    @property
    def keys(self) -> dict[str, Any]:
        """Settings of a run that reads them."""
        return {"tokenizer_name_or_path": self.model, "load": self.weights, "data_path": self.pairs}


@dataclass(frozen=True)
class OwnRun(OwnInputs):
    """Inputs and a finished run over 24 steps on TP2.

    Attributes:
        settings: Other settings of the run than its inputs.
        output_dir: What the run wrote.
        screen: What a terminal of 80 columns received.
    """

    settings: dict[str, Any]
    output_dir: Path
    screen: str

    @property
    def keys(self) -> dict[str, Any]:
        """Settings of the run; others can be put on top."""
        return {**super().keys, **self.settings}


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> OwnRun:
    """A run that needs nothing from outside; Ray is started by the command itself."""
    folder = tmp_path_factory.mktemp("own")
    inputs = OwnInputs.make(folder, (2, 1, 1))
    settings = {
        "reference_cache_dir": folder / "cache",
        "train_iters": 24,
        "lr_decay_iters": 24,
        "eval_interval": 8,
        "save_interval": 12,
        "report": True,
    }
    keys = {**inputs.keys, **settings, "sequence_parallel": True, "output_dir": folder / "run"}
    screen = run_on_terminal(training((2, 1, 1), **keys))
    return OwnRun(inputs.preferences, inputs.model, inputs.weights, inputs.pairs, settings, folder / "run", screen)


@pytest.fixture(scope="package")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster with four free slots for processes, for runs that need not start their own."""
    with ray_cluster(num_cpus=4) as address:
        yield address
