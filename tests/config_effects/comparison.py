"""How the effect of a key is observed: in the metrics of a short run, in the plan, or by another test.

A row of a table has the other value of a key, further settings that it requires, and the metric that it changes.
"""

from __future__ import annotations

import ast
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, MESSAGES, PAIR_COLUMNS
from mindspeed_dpo.data.indexed.column_group_writer import writing
from tests.support.runs import train
from tests.unit.workers.pairs import PAIRS, random_run
from tests.unit.workers.rollouts import PROMPTS, online_run

Keys = Mapping[str, Any]
TESTS = Path(__file__).resolve().parents[1]
STEPS = 3


@dataclass(frozen=True)
class KeyChange:
    """The other value of a key, for example `KeyChange(0.5, "beta", {"dpo_beta_style": "linear"})`.

    Attributes:
        to: The value.
        metric: The metric of `metrics.jsonl` that changes; not used for the plan.
        context: Settings of both runs.
    """

    to: Any
    metric: str = "loss"
    context: Keys = field(default_factory=dict)


@dataclass(frozen=True)
class CoveredBy:
    """Another test that covers the key, as `file::function`; its file must contain the key."""

    test: str

    def check(self, key: str) -> None:
        """Check that the test exists and that its file contains the key."""
        file, name = self.test.split("::")
        source = (TESTS / file).read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{key}: {self.test} does not exist"
        assert key in source, f"{key}: {file} does not contain it"


@functools.cache
def folder() -> Path:
    """Directory of the short runs; tokens and weights are created once."""
    return Path(tempfile.mkdtemp(prefix="config_effects_"))


@functools.cache
def pairs_with_numbers() -> Path:
    """The pairs of `PAIRS`, each with a margin and a weight."""
    prefix = folder() / "numbers"
    with writing(prefix, PAIR_COLUMNS, ("gap", "trust")) as writer:
        for number, (prompt, chosen, rejected) in enumerate(PAIRS):
            ignored = [IGNORE_INDEX] * len(prompt)
            rows = (prompt + chosen, ignored + chosen, prompt + rejected, ignored + rejected)
            texts = {"gap": str(number / 2), "trust": str(1 + number)}
            writer.append(dict(zip(PAIR_COLUMNS, rows, strict=True)), texts)
        writer.commit({})
    return prefix


@functools.cache
def prompts_with_text() -> Path:
    """The prompts of `PROMPTS`, each with the messages that reward functions receive."""
    prefix = folder() / "texts"
    with writing(prefix, ("input_ids",), (MESSAGES,)) as writer:
        for number, prompt in enumerate(PROMPTS):
            messages = [{"role": "user", "content": f"question {number}"}]
            writer.append({"input_ids": prompt}, {MESSAGES: json.dumps(messages)})
        writer.commit({})
    return prefix


def offline(keys: Keys) -> RunConfig:
    """A short offline run from random weights over five pairs, whose reference differs from its policy."""
    defaults = {"train_iters": STEPS, "global_batch_size": 4, "micro_batch_size": 2, "lr": 1e-2, "seq_length": 64}
    defaults["report"] = False
    return random_run(folder(), **{**defaults, **keys, "output_dir": _output()})


def online(keys: Keys) -> RunConfig:
    """A short online run: five prompts, and the length of a response is its score."""
    defaults = {
        "train_iters": 2,
        "global_batch_size": 4,
        "ppo_mini_batch_size": 4,
        "n_samples_per_prompt": 3,
        "reward_functions": ["tests.support.reward_functions.length"],
        "lr": 1e-2,
        "report": False,
    }
    defaults["data_path"] = prompts_with_text()
    return online_run(folder(), (1, 1, 1), 1, **{**defaults, **keys, "output_dir": _output()})


def _output() -> str:
    return tempfile.mkdtemp(prefix="run_", dir=folder())


_done: dict[tuple[Callable[[Keys], RunConfig], str], list[dict[str, float]]] = {}


def metrics(kind: Callable[[Keys], RunConfig], keys: Keys) -> list[dict[str, float]]:
    """The metrics of a run; the same settings are run once."""
    name = kind, repr(sorted(keys.items()))
    if name not in _done:
        _done[name] = train(kind(keys))
    return _done[name]


def plan(kind: Callable[[Keys], RunConfig], keys: Keys) -> list[str]:
    """The plan of a run, without its output directory."""
    return plan_lines(kind(keys))
