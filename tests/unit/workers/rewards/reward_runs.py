"""Runs with a reward model for tests of its scorers, and what a pool of processes does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch.distributed as dist

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.weights import open_weights
from mindspeed_dpo.workers.reward import RewardWorker
from mindspeed_dpo.workers.scorer import Scored
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from tests.support.processes import leave_layout, pool
from tests.support.reward_models import save_tiny_reward_model
from tests.support.tokenizers import save_chat_tokenizer, save_tokenizer
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rewards.sample_rollouts import tokenizer_dir

OWN_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '[/]' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
VOCAB_SIZE = 300


class Messages:
    """A prompt set whose row r asks a question about r."""

    def columns(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        return {"messages": [question(int(row)) for row in rows]}


class NoColumns:
    """A prompt set made by another tool."""

    def columns(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        return {}


class OddMessages(Messages):
    """A prompt set whose row 5 ends with a response."""

    def columns(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        return {"messages": [conversation if row == 5 else question(int(row)) for row in rows]}


def question(row: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"what is {row}?"}]


@cache
def reward_folder(name: str = "llama", tokenizer: str = "policy") -> Path:
    """A tiny reward model with the policy's tokenizer beside it, or one of its own with or without chat template."""
    folder = save_tiny_reward_model(name, Path(mkdtemp(prefix="reward_")) / name, vocab_size=VOCAB_SIZE)
    if tokenizer == "policy":
        save_chat_tokenizer(folder)
    elif tokenizer != "none":
        template = OWN_TEMPLATE if tokenizer == "chat" else None
        save_tokenizer(folder, special=("[/]",), merges=[("a", "b"), ("i", "s")], chat_template=template)
    return folder


@cache
def base_run() -> RunConfig:
    """A run without a reward."""
    return random_run(Path(mkdtemp(prefix="reward_run_")))


def reward_run(
    load: Path, layout: tuple[int, int] = (1, 1), *, model: Mapping[str, Any] | None = None,
    micro_batch_size: int | None = 2, micro_batch_tokens: int | None = None, pad_to_multiple_of: int = 1,
    sequence_parallel: bool = False, cp: int = 1, ep: int = 1, share_prompt: bool = True, **keys: Any,
) -> RunConfig:  # fmt: skip
    """A run whose reward loads `load`; further keys are of `RewardConfig`."""
    run = base_run()
    actor = replace(run.actor, data=replace(run.actor.data, tokenizer_name_or_path=str(tokenizer_dir())))
    described = ModelConfig(**model) if model else open_weights(load).model_config()
    reward = replace(
        actor,
        name="reward",
        has_score_head=True,
        model=described,
        checkpoint=replace(actor.checkpoint, load=str(load), random_init=False),
        parallel=replace(
            actor.parallel, tensor_model_parallel_size=layout[0], pipeline_model_parallel_size=layout[1],
            context_parallel_size=cp, expert_model_parallel_size=ep, sequence_parallel=sequence_parallel,
        ),
        batch=replace(
            actor.batch, micro_batch_size=micro_batch_size, micro_batch_tokens=micro_batch_tokens,
            pad_to_multiple_of=pad_to_multiple_of, share_prompt=share_prompt,
        ),
        reward=RewardConfig(**keys),
    )  # fmt: skip
    return replace(run, actor=actor, reward=reward)


def score(run: RunConfig, batch: RolloutBatch, processes: int = 1, prompts: type = Messages) -> Scored:
    """What the replicas of a pool say together."""
    shares = pool(processes).run(_score, run, batch, prompts)
    return Scored.concat([scored for scored in shares if scored is not None])


def silent(run: RunConfig, batch: RolloutBatch, processes: int) -> list[bool]:
    """Which processes say nothing."""
    return [scored is None for scored in pool(processes).run(_score, run, batch, Messages)]


def _score(run: RunConfig, batch: RolloutBatch, prompts: type) -> Scored | None:
    leave_layout()
    role = run.reward
    assert role is not None
    parallel = role.parallel
    topology = Topology.of(
        dist.get_world_size(),
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
        parallel.expert_parallel_size,
    )
    process_groups.split(topology)
    worker = RewardWorker(WorkerContext(run, topology.place(dist.get_rank()), find_accelerator("cpu")), role, prompts())
    return worker.score(batch)


def assert_scores(actual: Scored, expected: Sequence[Sequence[float]] | np.ndarray) -> None:
    assert actual.scores.dtype == np.float32 and not actual.failures
    np.testing.assert_allclose(actual.scores, np.asarray(expected), rtol=1e-4, atol=1e-4)
