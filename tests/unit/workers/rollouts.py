"""Online runs of the tiny model over pools of processes, for tests of what generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Glm4MoeConfig, LlamaConfig, PreTrainedConfig

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.role_interfaces.actor_interface import Actor
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from tests.support.composing import load_quickly
from tests.support.processes import ACTOR, PoolGroup
from tests.support.runs import Layout, overrides
from tests.support.tokenizers import save_tokenizer
from tests.unit.workers.pairs import write_pairs

PROMPTS = [[5, 1, 2], [7, 20], [11], [3, 3, 0, 9], [30, 31, 200]]
ROLLOUT = "rollout"
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24, "first_k_dense_replace": 1,
    "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True, "norm_topk_prob": True,
    "n_shared_experts": 1, "rotary_percent": 0.5,
}  # fmt: skip
"""Settings of the model with experts that `online_run` makes: a dense layer, and one with everything that there is."""


def online_run(
    folder: Path, layout: Layout, inference_tp: int, own: int = 0, more: Sequence[str] = (), **settings: Any
) -> RunConfig:
    """A run whose rollout sits on `own` processes, or in the actor's for 0; with `more` overrides as they are typed."""
    tp, pp, dp = layout
    train = tp * pp * dp * settings.get("context_parallel_size", 1)
    if not (folder / "tokenizer").exists():
        write_inputs(folder)
    layers, has_experts = settings.get("num_layers", 2), "num_experts" in settings
    keys = {
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "inference_tensor_model_parallel_size": inference_tp,
        "data_path": folder / "prompts",
        "output_dir": folder / "out",
        "tokenizer_name_or_path": folder / "tokenizer",
        "load": save_policy(folder / _name(layers, has_experts), layers, has_experts),
        "seq_length": 14,
        "max_prompt_length": 8,
        "n_samples_per_prompt": 2,
        "global_batch_size": 2 * dp,
        "ppo_mini_batch_size": 2 * dp,
        "micro_batch_size": 1,
        "train_iters": 4,
        "publish_bucket_bytes": 10000,
        **({"num_gpus_for_train": train, "num_gpus_for_infer": own} if own else {}),
        **settings,
    }
    given = [*overrides(keys), *more, f"resource_pool.actor_rollout=[{train + own}]"]
    return load_quickly("online_dpo_trainer_tiny", given)


def write_inputs(folder: Path) -> Path:
    """Write weights of the tiny model, a tokenizer, prompts, and pairs to learn from; returns where the weights are."""
    weights = save_policy(folder / _name(2), 2)
    save_tokenizer(folder / "tokenizer")
    write_pairs(folder / "pairs")
    with writing(folder / "prompts", ("input_ids",)) as writer:
        for prompt in PROMPTS:
            writer.append({"input_ids": prompt})
        writer.commit({})
    return weights


def _name(layers: int, has_experts: bool = False) -> str:
    return "hf" if (layers, has_experts) == (2, False) else f"hf{'_experts' * has_experts}{layers}"


def save_policy(folder: Path, layers: int, has_experts: bool = False) -> Path:
    """Return the folder, with random weights of the tiny model in so many layers."""
    if folder.exists():
        return folder
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(layers, has_experts), dtype=torch.float32)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn_like(buffer))
    model.save_pretrained(folder)
    return folder


def _config(layers: int, has_experts: bool) -> PreTrainedConfig:
    sizes = {
        "vocab_size": 262, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "initializer_range": 0.1,
        "max_position_embeddings": 256, "head_dim": 16,
    }  # fmt: skip
    if not has_experts:
        return LlamaConfig(**sizes)
    return Glm4MoeConfig(
        **sizes, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, first_k_dense_replace=1,
        n_group=1, topk_group=1, n_shared_experts=1, num_mtp_layers=0,
    )  # fmt: skip


class Jobs:
    """The actor and the rollout of a run, built, as the driver sees them."""

    def __init__(self, run: RunConfig, folder: Path) -> None:
        self.run = run
        self.actor = PoolGroup(run, run.num_processes("actor"))
        self.actor.inspect(_build_actor, folder / "pairs")
        own = run.pool_of(ROLLOUT) != ACTOR
        self.rollout = PoolGroup(run, run.num_processes(ROLLOUT), ROLLOUT) if own else self.actor
        self.rollout.build(ROLLOUT)
        if own:
            address = self.actor.call(Actor.host_weight_group, "127.0.0.1")[0]
            stages = run.actor.parallel.pipeline_model_parallel_size
            self.at_once(
                Actor.join_weight_group, Rollout.join_weight_group, address, stages, run.num_processes(ROLLOUT)
            )

    def learn(self, step: int = 0) -> None:
        """One update of the actor's weights."""
        rows = np.arange(self.run.actor.batch.global_batch_size)
        self.actor.call(Actor.update, step, rows, np.zeros((len(rows), 2), np.float32))

    def hand_over(self, version: int) -> list[int]:
        """Publish and receive; what the rollout says it has."""
        if self.rollout is self.actor:
            assert self.actor.call(Actor.send_weights, version) == [None] * self.run.num_processes("actor")
            return self.rollout.call(Rollout.receive_weights, version)
        return self.at_once(Actor.send_weights, Rollout.receive_weights, version)

    def at_once(self, of_actor: Callable[..., Any], of_rollout: Callable[..., Any], *args: Any) -> list[Any]:
        """Call both sides together; the rollout's responses."""
        with ThreadPoolExecutor() as threads:
            calls = [
                threads.submit(self.actor.call, of_actor, *args),
                threads.submit(self.rollout.call, of_rollout, *args),
            ]
            return [call.result() for call in calls][1]

    def digests(self) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
        """Those of the actor's and of the rollout's replicas."""
        actor = self.actor.call(Actor.weights_digest)
        rollout = self.rollout.call(Rollout.weights_digest)
        return [one for one in actor if one is not None], [one for one in rollout if one is not None]

    def generate(self, rows: list[int], *args: Any) -> RolloutBatch:
        """The responses of all replicas."""
        parts = self.rollout.call(Rollout.generate, rows, *args)
        return RolloutBatch.concat([part for part in parts if part is not None])

    def greedy(self, rows: list[int], *of_reference: bool) -> Tensor:
        """The tokens of the greedy responses of all replicas, one after the other."""
        parts = [part for part in self.rollout.call(Rollout.generate_greedy, rows, *of_reference) if part is not None]
        return RolloutBatch.concat(parts).samples.response_tokens

    def logps(self, sampled: PreferenceBatch) -> Tensor:
        """The actor's own log-probabilities [P, K] of responses."""
        return next(one for one in self.actor.inspect(_score, sampled) if one is not None)


def _build_actor(colocated: ColocatedRoles, pairs: Path) -> None:
    """The actor over pairs on disk: what it learns does not matter here, only that its weights change."""
    role = colocated.context.run.actor
    role = replace(role, data=replace(role.data, data_path=str(pairs)))
    colocated.roles["actor"] = ActorWorker(colocated.context, role, PreferenceDataset.open(str(pairs)))


def _score(colocated: ColocatedRoles, sampled: PreferenceBatch) -> Tensor | None:
    place, multiple = colocated.context.place, colocated.context.run.actor.row_multiple
    packed = pack(sampled, multiple_of=multiple).for_context_rank(place.cp_rank, place.topology.cp)
    columns = colocated.roles["actor"].engine.score([packed])
    return packed.sum_by_response(columns[0][:, LOGP]) if place.is_output else None
