"""Which value holds for which role: the role's section, else `training`, else its model file, else the default.

Values that follow from others are filled in here, so that everyone after reads numbers and names, never "absent".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

from mindspeed_dpo.config.fields import declared
from mindspeed_dpo.config.loop import LoopConfig
from mindspeed_dpo.config.names import did_you_mean, listing
from mindspeed_dpo.config.problems import Findings
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.schema import FROZEN_GROUPS, FROZEN_KEYS, ROLE_GROUPS, SHARED_KEYS, home, stand_in
from mindspeed_dpo.config.sections import Given, Origin, Sections, Values

Group = TypeVar("Group")


def resolve(sections: Sections, now: datetime, findings: Findings) -> RunConfig:
    """Layer, build and fill in. With problems among `findings` the result is only good for finding more of them."""
    _settle_shared(sections, findings)
    _note_idle(sections, findings)
    values = _layered(sections, "actor", findings)
    loop = _build(LoopConfig, values, findings, "training")
    actor = RoleConfig(
        name="actor",
        **{group: _build(kind, values, findings, _where(sections, group)) for group, kind in ROLE_GROUPS.items()},
    )
    pools = dict(sections.pools)
    pools.pop("reward", None)
    if "actor_rollout" not in pools:
        pools["actor_rollout"] = (actor.model_parallel_size,)
        findings.note(f"resource_pool.actor_rollout is not set: {actor.model_parallel_size} processes on one node")
    loop, actor = _filled(sections.name, loop, actor, sum(pools["actor_rollout"]), now, findings)
    origins = {f"{'loop' if hasattr(loop, key) else 'actor'}.{key}": given.origin for key, given in values.items()}
    ref, ref_origins = _reference(sections, actor, findings)
    return RunConfig(
        name=sections.name,
        loop=loop,
        actor=actor,
        ref=ref,
        pools=pools,
        notes=tuple(dict.fromkeys(findings.notes)),
        origins={**origins, **ref_origins},
    )


def _settle_shared(sections: Sections, findings: Findings) -> None:
    """Move what holds for the whole run into `training`; a role may repeat it, not differ."""
    for key in SHARED_KEYS:
        for role in sections.roles.values():
            given = role.pop(key, None)
            agreed = sections.training.setdefault(key, given) if given else None
            if given and agreed and agreed.value != given.value:
                findings.problem(
                    f"{given.origin.section}.{key}={given.value} differs from {agreed.origin.section}.{key}="
                    f"{agreed.value}; the run has one value, keep it in training",
                    key,
                )


def _note_idle(sections: Sections, findings: Findings) -> None:
    """Tell what a file of another stage brings that nothing here reads."""
    if sections.roles.pop("reward", None) is not None:
        findings.note("section reward has no effect: stage dpo scores nothing")
    if "reward" in sections.pools:
        findings.note("resource_pool.reward has no effect: stage dpo scores nothing")
    for key in sorted(set(sections.roles.get("ref", {})) - FROZEN_KEYS):
        findings.note(
            f"actor_rollout_ref.ref.{key} has no effect: the reference is not trained and reads the same data"
        )
    used = {sections.model_of.get(role) for role in ("actor", "ref")}
    for name in sorted(set(sections.models) - used) if len(sections.models) > 1 else ():
        findings.note(f"model.{name} is used by no role")


def _layered(sections: Sections, role: str, findings: Findings) -> Values:
    model = sections.models.get(_model_name(sections, role, findings), {})
    return {**model, **sections.training, **sections.roles.get(role, {})}


def _model_name(sections: Sections, role: str, findings: Findings) -> str:
    """The model block of a role; where the file has only one, it need not be named."""
    known = list(sections.models)
    name = sections.model_of.get(role) or (known[0] if len(known) == 1 else "")
    if not known:
        findings.problem("there is no model: add `defaults: - model: [name]` with a file of configs/model", "model")
    elif not name:
        findings.problem(f"{role}: model is missing; choose {listing(known)}", "model")
    elif name not in known:
        findings.problem(
            f"{role}: model={name} is not among the models of `defaults`{did_you_mean(name, known)}", "model"
        )
    return name


def _where(sections: Sections, group: str) -> str:
    if group == "model":
        return f"model.{sections.model_of.get('actor') or next(iter(sections.models), '')}"
    return home("lr")


def _build(kind: type[Group], values: Values, findings: Findings, where: str) -> Group:
    chosen: dict[str, Any] = {}
    for key, item in declared(kind).items():
        given = values.get(key)
        if given is not None and given.value is not None:
            chosen[key] = given.value
        elif item.required:
            # Without a model block everything of the model is missing, which has been said.
            findings.problem(f"{where}: {key} is missing: {item.about.help}", key, *_model_key(where))
            chosen[key] = stand_in(item)
    return kind(**chosen)


def _model_key(where: str) -> tuple[str, ...]:
    return ("model",) if where.startswith("model.") else ()


def _reference(sections: Sections, actor: RoleConfig, findings: Findings) -> tuple[RoleConfig, dict[str, Origin]]:
    """The reference: the actor's settings, or those of its own section where the file has one."""
    named = actor.reference.ref_model
    if "ref" not in sections.roles:
        random_init = actor.checkpoint.random_init and not named
        checkpoint = dataclasses.replace(actor.checkpoint, load=named or actor.checkpoint.load, random_init=random_init)
        return dataclasses.replace(actor, name="ref", checkpoint=checkpoint), {}
    values = _layered(sections, "ref", findings)
    if "ref" not in sections.pools:
        values = {**_layout_of(actor), **values}
    built: dict[str, Any] = {
        group: _build(ROLE_GROUPS[group], values, findings, "actor_rollout_ref.ref") for group in FROZEN_GROUPS
    }
    built["batch"] = dataclasses.replace(built["batch"], global_batch_size=actor.batch.global_batch_size)
    built["parallel"] = _usable(built["parallel"])
    # `training.load` is every role's; only the section's own may outrank ref_model.
    load = _value(sections.roles["ref"], "load") or named
    if not load and not _value(values, "random_init"):
        load = actor.checkpoint.load
    checkpoint = dataclasses.replace(
        actor.checkpoint,
        load=load,
        random_init=not load,
        load_checkpoint_loosely=bool(_value(values, "load_checkpoint_loosely")),
    )
    ref = dataclasses.replace(actor, name="ref", checkpoint=checkpoint, **built)
    return ref, {f"ref.{key}": given.origin for key, given in _of_frozen(values)}


def _layout_of(actor: RoleConfig) -> Values:
    """On shared devices an unsaid layout can only be the actor's."""
    origin = Origin("resource_pool", "shared with the actor")
    keys = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    return {key: Given(getattr(actor.parallel, key), origin) for key in keys}


def _of_frozen(values: Values) -> Iterable[tuple[str, Given]]:
    return ((key, given) for key, given in values.items() if key in FROZEN_KEYS)


def _value(values: Values, key: str) -> Any:
    given = values.get(key)
    return given.value if given else None


def _usable(parallel: Any) -> Any:
    """Switch off what needs more devices, and take the older names of "the device's own transport" as that."""
    backend = parallel.distributed_backend
    return dataclasses.replace(
        parallel,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1,
        distributed_backend="auto" if backend in ("nccl", "hccl") else backend,
    )


def _filled(
    name: str, loop: LoopConfig, actor: RoleConfig, processes: int, now: datetime, findings: Findings
) -> tuple[LoopConfig, RoleConfig]:
    """Give every derived setting its value."""
    if actor.parallel.sequence_parallel and actor.parallel.tensor_model_parallel_size == 1:
        findings.note("sequence_parallel is off: it needs tensor_model_parallel_size above 1")
    if actor.data.prompt_type or actor.data.prompt_type_path:
        findings.note(
            "prompt_type is only compared with what the data was made with: preprocess_data.py has applied the template"
        )
    output_dir = loop.output_dir or f"outputs/{name}/{now:%Y-%m-%d_%H-%M-%S}"
    on_cpu = loop.device == "auto" and actor.parallel.distributed_backend == "gloo"
    loop = dataclasses.replace(loop, output_dir=output_dir, device="cpu" if on_cpu else loop.device)
    replicas = max(1, processes // actor.model_parallel_size)
    batch, data, rate = actor.batch, actor.data, actor.optimizer
    filled = dataclasses.replace(
        actor,
        parallel=_usable(actor.parallel),
        batch=dataclasses.replace(
            batch, global_batch_size=batch.global_batch_size or batch.micro_batch_size * replicas
        ),
        data=dataclasses.replace(data, seq_length=data.seq_length or actor.model.max_position_embeddings),
        optimizer=dataclasses.replace(rate, lr_decay_iters=rate.lr_decay_iters or loop.train_iters),
        checkpoint=dataclasses.replace(actor.checkpoint, save=actor.checkpoint.save or f"{output_dir}/checkpoints"),
    )
    return loop, filled
