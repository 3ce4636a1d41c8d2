"""What must hold between settings: sizes divide, choices fit together. Nothing is opened; `paths` looks at the disk.

A check yields what is wrong, blaming the first key it names. A key blamed once is not blamed again, so one mistake is
one problem; the order of the tables is therefore the order of causes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from mindspeed_dpo.config.coerce import show
from mindspeed_dpo.config.learning import SMOOTHED_LOSSES
from mindspeed_dpo.config.names import listing
from mindspeed_dpo.config.problems import Findings
from mindspeed_dpo.config.run import RoleConfig, RunConfig

_NEEDED_BY_ROPE: dict[str | None, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
}


class Wrong(NamedTuple):
    """What is wrong with the first of `keys` given the others; `says` finishes the sentence "key=value …"."""

    keys: tuple[str, ...]
    says: str


def report(run: RunConfig, role: RoleConfig, wrong: Wrong, findings: Findings) -> None:
    """Add what is wrong with a role, telling in which section the blamed value stands."""
    key = wrong.keys[0]
    origin = run.origins.get(f"{role.name}.{key}") or run.origins.get(f"loop.{key}")
    value = {**vars(run.loop), **role.settings(), **_pools(run)}[key]
    path = f"{origin.section}.{key}" if origin else f"resource_pool.{key}" if key in run.pools else key
    findings.problem(f"{path}={show(value)} {wrong.says}", *wrong.keys, role=role.name)


def check_run(run: RunConfig, findings: Findings) -> None:
    """Apply every check to every role that has settings of its own."""
    own = run.ref is not None and run.ref.model is not run.actor.model
    roles = [run.actor, run.ref] if run.ref is not None and own else [run.actor]
    for role in roles:
        for role_check in (_model, _split_model, _pool):
            for wrong in role_check(role, run):
                report(run, role, wrong, findings)
    for actor_check in (_batch, _schedule, _loss, _memory, _evaluation, _weights, _devices):
        for wrong in actor_check(run):
            report(run, run.actor, wrong, findings)
    if run.ref is not None:
        for wrong in _reference(run, run.ref):
            report(run, run.ref, wrong, findings)


def _pools(run: RunConfig) -> dict[str, list[int]]:
    return {name: list(sizes) for name, sizes in run.pools.items()}


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _model(role: RoleConfig, run: RunConfig) -> Iterator[Wrong]:
    model = role.model
    heads, groups = model.num_attention_heads, model.num_query_groups
    if not model.vocab_size:
        yield Wrong(("vocab_size", "padded_vocab_size", "model"), "must be given: the number of token ids")
    elif model.padded_vocab_size is not None and model.padded_vocab_size < model.vocab_size:
        yield Wrong(("padded_vocab_size", "vocab_size"), f"is less than vocab_size={model.vocab_size}")
    if model.hidden_size % heads and model.kv_channels == model.hidden_size // heads:
        yield Wrong(
            ("num_attention_heads", "hidden_size", "kv_channels"),
            f"does not divide hidden_size={model.hidden_size}; set kv_channels, the width of a head",
        )
    if heads % groups:
        yield Wrong(
            ("num_query_groups", "num_attention_heads"),
            f"does not divide num_attention_heads={heads}; choose {listing(_divisors(heads))}",
        )
    missing = [key for key in _NEEDED_BY_ROPE.get(model.rope_scaling_type, ()) if getattr(model, key) is None]
    if missing:
        yield Wrong(("rope_scaling_type", *missing), f"needs {listing(missing, 'and')} as well")
    if role.data.seq_length > model.max_position_embeddings:
        yield Wrong(
            ("seq_length", "max_position_embeddings"),
            f"is more than max_position_embeddings={model.max_position_embeddings} of the model",
        )


def _split_model(role: RoleConfig, run: RunConfig) -> Iterator[Wrong]:
    model, tp, pp = role.model, role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    split = ["num_attention_heads", "num_query_groups", "ffn_hidden_size"]
    split += ["padded_vocab_size"] if model.padded_vocab_size is not None else []
    sizes = {name: getattr(model, name) for name in split}
    uneven = [f"{name}={size}" for name, size in sizes.items() if size % tp]
    if uneven:
        good = listing(_divisors(math.gcd(*sizes.values())))
        yield Wrong(
            ("tensor_model_parallel_size", *split, "hidden_size"),
            f"does not divide {listing(uneven, 'and')}; choose {good}",
        )
    if model.num_layers % pp:
        yield Wrong(
            ("pipeline_model_parallel_size", "num_layers"),
            f"does not divide num_layers={model.num_layers}; choose {listing(_divisors(model.num_layers))}",
        )
    if role.parallel.overlap_param_gather and not role.parallel.use_distributed_optimizer:
        yield Wrong(
            ("overlap_param_gather", "use_distributed_optimizer"),
            "has no effect without use_distributed_optimizer: true",
        )


def _pool(role: RoleConfig, run: RunConfig) -> Iterator[Wrong]:
    total, replica = run.num_processes(role.name), role.model_parallel_size
    if total % replica:
        yield Wrong(
            (run.pool_of(role.name), "tensor_model_parallel_size", "pipeline_model_parallel_size"),
            f"holds {total} processes, which is no multiple of tensor x pipeline = {replica}; "
            f"choose {listing(replica * count for count in (1, 2, 4))} in all",
        )


def _batch(run: RunConfig) -> Iterator[Wrong]:
    batch, replicas = run.actor.batch, max(1, run.data_parallel_size("actor"))
    together = batch.micro_batch_size * replicas
    if batch.global_batch_size % together:
        lower = batch.global_batch_size // together * together
        good = listing(size for size in (lower, lower + together) if size)
        keys = ("global_batch_size", "micro_batch_size", "tensor_model_parallel_size", "pipeline_model_parallel_size")
        yield Wrong(
            (*keys, "actor_rollout"),
            f"is no multiple of micro_batch_size x data-parallel size = {batch.micro_batch_size} x {replicas}; "
            f"choose {good}",
        )


def _schedule(run: RunConfig) -> Iterator[Wrong]:
    rate = run.actor.optimizer
    if rate.min_lr > rate.lr:
        yield Wrong(("min_lr", "lr"), f"is more than lr={rate.lr}")
    if rate.lr_warmup_fraction and rate.lr_warmup_iters:
        yield Wrong(("lr_warmup_fraction", "lr_warmup_iters"), "and lr_warmup_iters say the same thing; keep one")
    if rate.lr_warmup_iters >= rate.lr_decay_iters:
        yield Wrong(
            ("lr_warmup_iters", "lr_decay_iters", "train_iters"),
            f"must be less than lr_decay_iters={rate.lr_decay_iters}",
        )


def _loss(run: RunConfig) -> Iterator[Wrong]:
    loss = run.actor.loss
    if loss.dpo_loss_type == "exo_pair" and not loss.dpo_label_smoothing:
        yield Wrong(("dpo_loss_type", "dpo_label_smoothing"), "needs dpo_label_smoothing above 0, e.g. 0.001")
    if loss.dpo_label_smoothing and loss.dpo_loss_type not in SMOOTHED_LOSSES:
        yield Wrong(
            ("dpo_label_smoothing", "dpo_loss_type"),
            f"has no effect with dpo_loss_type={loss.dpo_loss_type}; remove it or choose {listing(SMOOTHED_LOSSES)}",
        )


def _memory(run: RunConfig) -> Iterator[Wrong]:
    recompute = run.actor.recompute
    given = {key: getattr(recompute, key) for key in ("recompute_method", "recompute_num_layers")}
    missing = [key for key, value in given.items() if value is None]
    if recompute.recompute_granularity == "full":
        if missing:
            yield Wrong(("recompute_granularity", *missing), f"needs {listing(missing, 'and')}, e.g. uniform and 1")
        return
    for key in given.keys() - missing:
        yield Wrong((key, "recompute_granularity"), "has no effect without recompute_granularity=full")


def _evaluation(run: RunConfig) -> Iterator[Wrong]:
    shares = split_shares(run.actor.data.split)
    if shares is None:
        yield Wrong(("split",), "must be one to three shares with a positive first, such as 98,2,0")
    elif run.loop.eval_interval and run.loop.eval_iters and not shares[1]:
        yield Wrong(
            ("eval_interval", "split", "eval_iters"),
            f"asks for evaluation, but split={run.actor.data.split} keeps no rows for it; "
            "use for example split=98,2,0, or eval_interval=null",
        )


def split_shares(text: str) -> tuple[float, float, float] | None:
    """The three proportions of `100,0,0`, absent ones 0; None where the text says something else."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(shares) > 3 or shares[0] <= 0 or not all(0 <= share < math.inf for share in shares):
        return None
    first, second, third = (*shares, 0.0, 0.0)[:3]
    return first, second, third


def _weights(run: RunConfig) -> Iterator[Wrong]:
    checkpoint = run.actor.checkpoint
    if checkpoint.load and checkpoint.random_init:
        yield Wrong(("random_init", "load"), "and load exclude each other; keep one")
    if not checkpoint.load and not checkpoint.random_init:
        yield Wrong(("load", "random_init"), "must name the initial weights; or set random_init: true on purpose")


def _devices(run: RunConfig) -> Iterator[Wrong]:
    if run.actor.parallel.distributed_backend == "gloo" and run.loop.device in ("npu", "cuda"):
        yield Wrong(
            ("distributed_backend", "device"), f"runs on the CPU only, but device={run.loop.device}; choose auto"
        )


def _reference(run: RunConfig, ref: RoleConfig) -> Iterator[Wrong]:
    asked = run.actor.reference.ref_model
    if asked and ref.checkpoint.load != asked:
        yield Wrong(("load", "ref_model"), f"differs from ref_model={asked}; keep one of them")
    if ref.model.vocab_size != run.actor.model.vocab_size:
        yield Wrong(
            ("vocab_size", "padded_vocab_size"),
            f"differs from {run.actor.model.vocab_size} of the actor, with whose tokens the reference is asked",
        )
    if run.pool_of("ref") != "actor_rollout":
        return
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        own, actors = getattr(ref.parallel, key), getattr(run.actor.parallel, key)
        if own != actors:
            yield Wrong(
                (key,), f"differs from {actors} of the actor, whose devices it shares; give ref a resource_pool"
            )
