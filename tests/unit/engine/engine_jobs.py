"""What the tests of the engine let a pool of processes do: train a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.engine.gradient_clipping import gradient_norm
from mindspeed_dpo.engine.optimizer_state import KINDS, MASTER, OptimizerState
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.models.virtual_stages import join_virtual_stages
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.weights import ParallelLayout
from mindspeed_dpo.workers.batching.batch_builder import MicroBatches
from tests.support.processes import leave_layout

# 21 tokens are padded to 22 rows under TP2 and to no row more with one tensor rank.
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=24,
    vocab_size=21,
    make_vocab_size_divisible_by=1,
    max_position_embeddings=64,
    untie_embeddings_and_output_weights=True,
    add_qkv_bias=True,
    init_method_std=0.3,
)
BATCH = PreferenceBatch.from_lists(
    [[5, 1, 2], [7, 20], [11], [3, 3, 0, 9]],
    [[[3], [4, 9, 6]], [[8, 1], [2, 0]], [[20, 19, 0], [1]], [[10, 2], [2, 10]]],
)


@dataclass(frozen=True)
class Setup:
    """How a model is trained."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    layers: int = 2
    virtual: int | None = None
    """Layers of a virtual stage."""
    bf16: bool = False
    distributed_optimizer: bool = False
    micro_batch_size: int = 1
    clip_grad: float = 1.0
    weight_decay: float = 0.01
    adam_eps: float = 1e-8
    offload: bool = False
    adam: Mapping[str, float] = field(default_factory=dict)
    """Further settings of the optimizer."""


def build(setup: Setup, seed: int = 3) -> TrainingEngine:
    """An engine around random weights."""
    leave_layout()
    topology = Topology.of(dist.get_world_size(), setup.tp, setup.pp, setup.cp)
    process_groups.split(topology)
    seed_generators(seed)
    dtype = torch.bfloat16 if setup.bf16 else torch.float32
    config = replace(MODEL, num_layers=setup.layers)
    count = ParallelLayout(setup.tp, setup.pp, setup.virtual).num_chunks(setup.layers)
    execution = Execution(topology, dtype=dtype, num_chunks=count, random_init=True)
    model = join_virtual_stages([PolicyModel(config, execution, chunk=chunk) for chunk in range(count)])
    parallel = ParallelConfig(
        tensor_model_parallel_size=setup.tp,
        pipeline_model_parallel_size=setup.pp,
        context_parallel_size=setup.cp,
        use_distributed_optimizer=setup.distributed_optimizer,
    )
    optimizer = OptimizerConfig(
        lr=0.0,
        weight_decay=setup.weight_decay,
        clip_grad=setup.clip_grad,
        optimizer_offload=setup.offload,
        **{"adam_eps": setup.adam_eps, **setup.adam},
    )
    return TrainingEngine(model, optimizer, parallel)


def micro_batches(setup: Setup) -> list[PackedBatch]:
    """This replica's part of the batch."""
    topology = Topology.of(dist.get_world_size(), setup.tp, setup.pp, setup.cp)
    place = topology.place(dist.get_rank())
    mine, size = list(shard(BATCH.num_prompts, place.dp_rank, topology.dp)), setup.micro_batch_size
    parts = [BATCH.select(mine[start : start + size]) for start in range(0, len(mine), size)]
    return [pack(part, multiple_of=setup.cp).for_context_rank(place.cp_rank, setup.cp) for part in parts]


def pair_losses(batch: PackedBatch, columns: Tensor) -> Tensor:
    """[P] of a preference loss."""
    logps = batch.sum_by_response(columns[:, LOGP])
    return -logsigmoid(0.3 * (logps[:, 0] - logps[:, 1]))


def loss_sum(batch: PackedBatch, columns: Tensor) -> Tensor:
    """The summed losses of a micro-batch."""
    return pair_losses(batch, columns).sum()


def train(engine: TrainingEngine, setup: Setup, steps: int, learning_rate: float = 0.02) -> list[float]:
    """Gradient norms of some steps."""
    norms = []
    for _ in range(steps):
        engine.accumulate(micro_batches(setup), loss_sum, BATCH.num_prompts)
        norms.append(engine.step(learning_rate))
    return norms


def gradient_and_loss(setup: Setup, repeats: int = 1) -> tuple[dict[str, Tensor], float]:
    """Gradient by parameter, and the sum of this replica's losses in the last repeat."""
    engine = build(setup)
    for _ in range(repeats):
        losses: list[float] = []

        def collecting(batch: PackedBatch, columns: Tensor, into: list[float] = losses) -> Tensor:
            values = pair_losses(batch, columns)
            into += values.tolist()
            return values.sum()

        engine.accumulate(micro_batches(setup), collecting, BATCH.num_prompts)
    return {name: parameter.main_grad.clone() for name, parameter in engine.model.named_parameters()}, sum(losses)


def order_of_work() -> list[str]:
    """What comes when of making micro-batches and computing them, in a step of one process."""
    setup, events = Setup(), list[str]()
    engine, made = build(setup), micro_batches(setup)

    def make(batch: PackedBatch) -> PackedBatch:
        events.append("packed")
        return batch

    def telling(batch: PackedBatch, columns: Tensor) -> Tensor:
        events.append("computed")
        return loss_sum(batch, columns)

    engine.accumulate(MicroBatches([partial(make, batch) for batch in made]), telling, BATCH.num_prompts)
    return events


def decayed(weight_decay: float, learning_rate: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Parameters before and after a step whose gradient is zero."""
    setup = Setup(weight_decay=weight_decay)
    engine = build(setup)
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    engine.accumulate(micro_batches(setup), lambda batch, columns: columns.sum() * 0, BATCH.num_prompts)
    engine.step(learning_rate)
    return {name: (before[name], parameter.detach()) for name, parameter in engine.model.named_parameters()}


def scores(setup: Setup, steps: int) -> tuple[list[Tensor], dict[str, bool]]:
    """The head's columns after some steps, and whether scoring left a gradient or changed a weight."""
    engine = build(setup)
    train(engine, setup, steps)
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    columns = engine.score(micro_batches(setup))
    same = all(torch.equal(parameter, before[name]) for name, parameter in engine.model.named_parameters())
    return columns, {"same": same, "requires_grad": any(column.requires_grad for column in columns)}


def after_a_broken_gradient(setup: Setup) -> tuple[float, bool, list[float]]:
    """Norm of a gradient that is not finite, whether the step changed a weight, and norms of the steps after it."""
    engine = build(setup)
    train(engine, setup, 1)
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    engine.accumulate(micro_batches(setup), lambda batch, columns: loss_sum(batch, columns) * float("inf"), 1)
    norm = engine.step(0.02)
    pairs = zip(before, engine.model.parameters(), strict=True)
    changed = any(not torch.equal(one, other) for one, other in pairs)
    return norm, changed, train(engine, setup, 2)


@dataclass(frozen=True)
class GivenGradients:
    """An optimizer of megatron-core as far as a norm reads it: gradients, and who else holds some."""

    gradients: list[Tensor]

    @property
    def chained_optimizers(self) -> list[GivenGradients]:
        return [self]

    def get_main_grads_for_grad_norm(self) -> list[Tensor]:
        return self.gradients

    def get_grad_stats_parallel_group(self) -> None:
        return None


def norm_of_many(count: int) -> tuple[float, float]:
    """The norm of `count` numbers on each rank but the last, which has none, and the same in float64."""
    generator = torch.Generator().manual_seed(5 + dist.get_rank())
    mine = [torch.rand(count, generator=generator) * 1e-3, torch.randn(7, 3, generator=generator)]
    mine = mine if dist.get_rank() < dist.get_world_size() - 1 else []
    parts: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, sum((part.double().square().sum() for part in mine), torch.zeros(1).double()))
    exact = torch.stack([part for part in parts if part is not None]).sum().sqrt()
    return gradient_norm(GivenGradients(mine), torch.device("cpu")), float(exact)


def norms(setup: Setup, steps: int) -> list[float]:
    """Gradient norms of some steps."""
    return train(build(setup), setup, steps)


def state_by_phase(setup: Setup) -> tuple[set[str], set[str]]:
    """Kinds of optimizer state whose numbers are elsewhere during an update, and those that are where they were."""
    engine = build(setup)
    train(engine, setup, 1)
    before = addresses(engine)
    with engine._state_on_device():
        during = addresses(engine)
    assert addresses(engine) == before
    moved = {kind for (number, kind), address in before.items() if during[number, kind] != address}
    return moved, {kind for _, kind in before} - moved


def addresses(engine: TrainingEngine) -> dict[tuple[int, str], int]:
    """Where each state tensor lies in memory."""
    return {
        (number, kind): tensor.data_ptr()
        for number, (_, slot) in enumerate(OptimizerState(engine.optimizer).slots())
        for kind, tensor in {MASTER: slot.master, **slot.inner.state[slot.master]}.items()
        if kind in KINDS
    }
