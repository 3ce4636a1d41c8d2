"""How a key is turned and how its effect is seen: in a short run's metrics, in the plan, or in another test.

A row of a table names a key's other value, what else must be set so that it counts, and where the effect is to be seen.
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

from mindspeed_dpo.config.estimates.summary import plan_lines
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.indexed.column_group import IGNORE, MESSAGES, PAIR_COLUMNS, writing
from tests.support.runs import train
from tests.unit.workers.pairs import PAIRS, random_run
from tests.unit.workers.rollouts import PROMPTS, online_run

Keys = Mapping[str, Any]
TESTS = Path(__file__).resolve().parents[1]
STEPS = 3


@dataclass(frozen=True)
class Turn:
    """A key's other value.

    Attributes:
        to: The value.
        moves: The metric that changes, a name of `metrics.jsonl`; in a plan, nothing.
        beside: What both runs set.
    """

    to: Any
    moves: str = "loss"
    beside: Keys = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A test elsewhere that turns the key, as `file::function`, and must name it."""

    test: str

    def check(self, key: str) -> None:
        """See that the test is there and that its file speaks of the key."""
        file, name = self.test.split("::")
        source = (TESTS / file).read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{key}: {self.test} is not there"
        assert key in source, f"{key}: {file} does not name it"


@functools.cache
def folder() -> Path:
    """Where the short runs write; tokens and weights are made once."""
    return Path(tempfile.mkdtemp(prefix="knobs_"))


@functools.cache
def pairs_with_numbers() -> Path:
    """The pairs of `PAIRS`, each with a margin and a weight."""
    prefix = folder() / "numbers"
    with writing(prefix, PAIR_COLUMNS, ("gap", "trust")) as writer:
        for number, (prompt, chosen, rejected) in enumerate(PAIRS):
            ignored = [IGNORE] * len(prompt)
            rows = (prompt + chosen, ignored + chosen, prompt + rejected, ignored + rejected)
            texts = {"gap": str(number / 2), "trust": str(1 + number)}
            writer.append(dict(zip(PAIR_COLUMNS, rows, strict=True)), texts)
        writer.commit({})
    return prefix


@functools.cache
def prompts_with_text() -> Path:
    """The prompts of `PROMPTS`, each with the messages that functions read."""
    prefix = folder() / "asked"
    with writing(prefix, ("input_ids",), (MESSAGES,)) as writer:
        for number, prompt in enumerate(PROMPTS):
            messages = [{"role": "user", "content": f"question {number}"}]
            writer.append({"input_ids": prompt}, {MESSAGES: json.dumps(messages)})
        writer.commit({})
    return prefix


def offline(keys: Keys) -> RunConfig:
    """A short offline run from random weights over five pairs, whose reference differs from its policy."""
    usual = {"train_iters": STEPS, "global_batch_size": 4, "micro_batch_size": 2, "lr": 1e-2, "seq_length": 64}
    return random_run(folder(), **{**usual, **keys, "output_dir": _output()})


def online(keys: Keys) -> RunConfig:
    """A short online run: five prompts, and the length of a response is its score."""
    usual = {
        "train_iters": 2,
        "global_batch_size": 4,
        "ppo_mini_batch_size": 4,
        "n_samples_per_prompt": 3,
        "reward_functions": ["tests.support.reward_functions.length"],
        "lr": 1e-2,
    }
    usual["data_path"] = prompts_with_text()
    return online_run(folder(), (1, 1, 1), 1, **{**usual, **keys, "output_dir": _output()})


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
    """What a run says it will do, without the folder it writes to."""
    return plan_lines(kind(keys))
