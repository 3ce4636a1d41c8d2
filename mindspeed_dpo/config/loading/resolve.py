"""Resolution of sections into a run: values per role, pools, roles, and every derived value filled in.

After this step every setting is a number or a name, never "absent".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.inapplicable_keys import drop_inapplicable_keys, note_changed_values, stage_of
from mindspeed_dpo.config.loading.precedence import (
    RoleBuilder,
    build_group,
    move_shared_settings,
    normalized_layout,
    overlay_sections,
)
from mindspeed_dpo.config.loading.resource_pools import PoolSizes, assign_pools, with_device_counts
from mindspeed_dpo.config.loading.sections import Sections
from mindspeed_dpo.config.loading.unknown_and_legacy_keys import apply_conditional_keys
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.evaluation import default_best_mode
from mindspeed_dpo.config.settings.registry import ROLE_GROUPS, default_section
from mindspeed_dpo.config.settings.trackers import filled_tracker_settings
from mindspeed_dpo.config.settings.training import ONLINE_STAGE, REWARD_MODEL_STAGE, LoopConfig


def resolve(sections: Sections, now: datetime, issues: Issues) -> RunConfig:
    """Build the run of a configuration. If `issues` has problems, the result is used only to find further ones."""
    move_shared_settings(sections, issues)
    drop_inapplicable_keys(sections, issues)
    stage = stage_of(sections)
    online = stage == ONLINE_STAGE
    values = overlay_sections(sections, "actor", issues)
    loop = build_group(LoopConfig, values, issues, "training")
    actor = RoleConfig(
        name="actor",
        has_score_head=stage == REWARD_MODEL_STAGE,
        **{
            group: build_group(kind, values, issues, _section_of_group(sections, group))
            for group, kind in ROLE_GROUPS.items()
        },
    )
    assignment = assign_pools(sections, actor.replica_size, actor.rollout, online, issues)
    loop = apply_conditional_keys(values, loop, actor, issues)
    note_changed_values(values, loop, actor, issues)
    loop = _fill_loop(sections.name, loop, now)
    actor = _fill_actor(loop, actor, assignment.pools)
    if online:
        actor = dataclasses.replace(
            actor,
            rollout=with_device_counts(actor.rollout, assignment.pools),
            reference=dataclasses.replace(actor.reference, reference="live"),
        )
    builder = RoleBuilder(sections, actor, assignment, issues)
    if online:
        builder.add_rollout()
    builder.add_frozen(online)
    origins = {f"{'loop' if hasattr(loop, key) else 'actor'}.{key}": item.origin for key, item in values.items()}
    return RunConfig(
        name=sections.name,
        loop=loop,
        actor=actor,
        ref=builder.roles.get("ref"),
        rollout=builder.roles.get("rollout"),
        reward=builder.roles.get("reward"),
        pools=assignment.pools,
        sharing=assignment.sharing,
        origins={**origins, **builder.origins},
    )


def _section_of_group(sections: Sections, group: str) -> str:
    """The section that a message about a missing key of a group names."""
    if group == "model":
        return f"model.{sections.model_of.get('actor') or next(iter(sections.models), '')}"
    return default_section("lr")


def _fill_loop(name: str, loop: LoopConfig, now: datetime) -> LoopConfig:
    output_dir = loop.output_dir or f"outputs/{name}/{now:%Y-%m-%d_%H-%M-%S}"
    return dataclasses.replace(
        loop,
        **filled_tracker_settings(loop, name, output_dir),
        output_dir=output_dir,
        best_metric_mode=loop.best_metric_mode or (default_best_mode(loop.best_metric) if loop.best_metric else None),
    )


def _fill_actor(loop: LoopConfig, actor: RoleConfig, pools: Mapping[str, PoolSizes]) -> RoleConfig:
    """Fill in every derived setting of the actor."""
    num_processes = sum(pools["actor_rollout"])
    replicas = max(1, num_processes // actor.replica_size)
    batch, optimizer, checkpoint = actor.batch, actor.optimizer, actor.checkpoint
    rollout, pairing, loss = actor.rollout, actor.pairing, actor.loss
    batch_size = batch.global_batch_size or (batch.micro_batch_size or 1) * replicas
    normalize = not loop.is_online if loss.ipo_normalize is None else loss.ipo_normalize
    rollout_tp = rollout.inference_tensor_model_parallel_size or actor.parallel.tensor_model_parallel_size
    num_generating = sum(pools.get("rollout", ())) or num_processes
    return dataclasses.replace(
        actor,
        parallel=normalized_layout(actor.parallel),
        batch=batch.filled(batch_size),
        data=dataclasses.replace(actor.data, seq_length=actor.data.seq_length or actor.model.max_position_embeddings),
        optimizer=dataclasses.replace(optimizer, lr_decay_iters=optimizer.lr_decay_iters or loop.train_iters),
        checkpoint=dataclasses.replace(checkpoint, save=checkpoint.save or f"{loop.output_dir}/checkpoints"),
        loss=dataclasses.replace(loss, ipo_normalize=normalize),
        pairing=dataclasses.replace(pairing, ppo_mini_batch_size=pairing.ppo_mini_batch_size or batch_size),
        rollout=dataclasses.replace(
            rollout,
            n_samples_per_prompt=max(2, rollout.n_samples_per_prompt),
            inference_tensor_model_parallel_size=rollout_tp,
            inference_expert_model_parallel_size=rollout.inference_expert_model_parallel_size
            or _rollout_ep(actor, rollout_tp, num_generating),
        ),
    )


def _rollout_ep(actor: RoleConfig, tp: int, num_processes: int) -> int:
    """Return the largest divisor of the expert-parallel size of training that the rollout can have; 1 with vLLM."""
    if actor.rollout.uses_vllm:
        return 1
    common = math.gcd(actor.parallel.expert_parallel_size, num_processes, actor.model.num_experts or 1)
    return max(ep for ep in range(1, common + 1) if common % ep == 0 and (ep % tp == 0 or tp % ep == 0))
