"""From sections to a run: layer, seat, cast. Which value holds for which role is told in `layers`.

Values that follow from others are filled in here, so that everyone after reads numbers and names, never "absent".
"""

from __future__ import annotations

import dataclasses
from datetime import datetime

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.overlay import build, layered, settle_shared
from mindspeed_dpo.config.loading.placement import seat, with_devices
from mindspeed_dpo.config.loading.role_defaults import RoleBuilder, usable
from mindspeed_dpo.config.loading.sections import Sections
from mindspeed_dpo.config.loading.unused_keys import drop_idle, is_online
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.evaluation import best_mode
from mindspeed_dpo.config.settings.parallel import ULYSSES
from mindspeed_dpo.config.settings.registry import ROLE_GROUPS, home
from mindspeed_dpo.config.settings.trackers import unused, with_trackers
from mindspeed_dpo.config.settings.training import LoopConfig


def resolve(sections: Sections, now: datetime, findings: Issues) -> RunConfig:
    """Layer, build and fill in. With problems among `findings` the result is only good for finding more of them."""
    settle_shared(sections, findings)
    drop_idle(sections, findings)
    online = is_online(sections)
    values = layered(sections, "actor", findings)
    loop = build(LoopConfig, values, findings, "training")
    actor = RoleConfig(
        name="actor",
        **{group: build(kind, values, findings, _where(sections, group)) for group, kind in ROLE_GROUPS.items()},
    )
    seats = seat(sections, actor.replica_size, actor.rollout, online, findings)
    _tell(actor, online, findings)
    for key, sentence in unused(loop):
        findings.note(f"{values[key].origin.section}.{sentence}")
    loop = _filled_loop(sections.name, loop, actor, now)
    actor = _filled(loop, actor, sum(seats.pools["actor_rollout"]))
    actor = _online(actor, seats.pools) if online else actor
    casting = RoleBuilder(sections, actor, seats, findings)
    if online:
        casting.add_rollout()
    casting.add_frozen(online)
    origins = {f"{'loop' if hasattr(loop, key) else 'actor'}.{key}": given.origin for key, given in values.items()}
    return RunConfig(
        name=sections.name,
        loop=loop,
        actor=actor,
        ref=casting.roles.get("ref"),
        rollout=casting.roles.get("rollout"),
        reward=casting.roles.get("reward"),
        pools=seats.pools,
        sharing=seats.sharing,
        origins={**origins, **casting.origins},
    )


def _where(sections: Sections, group: str) -> str:
    if group == "model":
        return f"model.{sections.model_of.get('actor') or next(iter(sections.models), '')}"
    return home("lr")


def _tell(actor: RoleConfig, online: bool, findings: Issues) -> None:
    """Note what is read as something else than was written."""
    if actor.parallel.sequence_parallel and actor.parallel.tensor_model_parallel_size == 1:
        findings.note("sequence_parallel is off: it needs tensor_model_parallel_size above 1")
    if actor.parallel.context_parallel_algo != ULYSSES and actor.parallel.context_parallel_size == 1:
        findings.note("context_parallel_algo has no effect: it needs context_parallel_size above 1")
    if not online and (actor.data.prompt_type or actor.data.prompt_type_path):
        findings.note(
            "prompt_type is only compared with what the data was made with: preprocess_data.py has applied the template"
        )
    if actor.rollout.n_samples_per_prompt == 1:
        findings.note("n_samples_per_prompt=1 is read as 2, as by the predecessor: a pair needs two responses")


def _filled_loop(name: str, loop: LoopConfig, actor: RoleConfig, now: datetime) -> LoopConfig:
    on_cpu = loop.device == "auto" and actor.parallel.distributed_backend == "gloo"
    output_dir = loop.output_dir or f"outputs/{name}/{now:%Y-%m-%d_%H-%M-%S}"
    return dataclasses.replace(
        loop,
        **with_trackers(loop, name, output_dir),
        output_dir=output_dir,
        device="cpu" if on_cpu else loop.device,
        best_metric_mode=loop.best_metric_mode or (best_mode(loop.best_metric) if loop.best_metric else None),
    )


def _filled(loop: LoopConfig, actor: RoleConfig, processes: int) -> RoleConfig:
    """Give every derived setting its value."""
    replicas = max(1, processes // actor.replica_size)
    batch, rate, checkpoint = actor.batch, actor.optimizer, actor.checkpoint
    together = batch.global_batch_size or (batch.micro_batch_size or 1) * replicas
    parallel, rollout, pairing, loss = usable(actor.parallel), actor.rollout, actor.pairing, actor.loss
    normalize = loss.ipo_normalize
    return dataclasses.replace(
        actor,
        parallel=parallel,
        batch=batch.filled(together),
        data=dataclasses.replace(actor.data, seq_length=actor.data.seq_length or actor.model.max_position_embeddings),
        optimizer=dataclasses.replace(rate, lr_decay_iters=rate.lr_decay_iters or loop.train_iters),
        checkpoint=dataclasses.replace(checkpoint, save=checkpoint.save or f"{loop.output_dir}/checkpoints"),
        loss=dataclasses.replace(loss, ipo_normalize=not loop.is_online if normalize is None else normalize),
        pairing=dataclasses.replace(pairing, ppo_mini_batch_size=pairing.ppo_mini_batch_size or together),
        rollout=dataclasses.replace(
            rollout,
            n_samples_per_prompt=max(2, rollout.n_samples_per_prompt),
            inference_tensor_model_parallel_size=(
                rollout.inference_tensor_model_parallel_size or parallel.tensor_model_parallel_size
            ),
        ),
    )


def _online(actor: RoleConfig, pools: dict[str, tuple[int, ...]]) -> RoleConfig:
    """What online DPO settles by itself: devices of each part, and a reference that is asked at every step."""
    return dataclasses.replace(
        actor,
        rollout=with_devices(actor.rollout, pools),
        reference=dataclasses.replace(actor.reference, reference="live"),
    )
