"""A response is bitwise a function of weights, prompt, seed, sample number and k: nothing beside it may matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.kv_cache import CacheTile
from mindspeed_dpo.rollout.layer_weights import placement_with
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.name_mapping import local_entries
from tests.support.tiny_models import save_tiny_model
from tests.unit.rollout.rollout_jobs import PROMPTS, rollout, rollout_model

pytestmark = pytest.mark.numerics

# Wide enough that a matrix library picks its real kernels.
WIDE = ModelConfig(
    num_layers=2,
    hidden_size=256,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=704,
    vocab_size=2000,
    max_position_embeddings=4096,
    sliding_window=300,
)
WIDE_MOE = replace(
    WIDE, num_experts=8, moe_router_topk=3, moe_ffn_hidden_size=192, moe_shared_expert_intermediate_size=192,
    shared_expert_gate=True, add_qkv_bias=True,
)  # fmt: skip
ROWS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RolloutModel:
    return rollout_model(save_tiny_model("qwen3", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def complete(model: RolloutModel) -> dict[int, tuple[object, ...]]:
    return by_sample(rollout(model), range(len(PROMPTS)))


def by_sample(batch: RolloutBatch, numbers: range | list[int]) -> dict[int, tuple[object, ...]]:
    """Everything about the responses of each sample number; floats as they are, to be equal bitwise."""
    assert batch.logps is not None
    return {
        number: ([r.tolist() for r in row], batch.ended[p].tolist(), batch.logps[p].tolist())
        for p, (number, row) in enumerate(zip(numbers, batch.samples.responses(), strict=True))
    }


def test_responses_differ_by_k_sample_number_and_seed(model: RolloutModel) -> None:
    prompt = [PROMPTS[0]] * 3
    batch = rollout(model, prompt, stop_ids=frozenset())
    responses = {tuple(r.tolist()) for row in batch.samples.responses() for r in row}
    assert len(responses) == 6
    other = rollout(model, prompt, stop_ids=frozenset(), seed=2)
    assert responses.isdisjoint({tuple(r.tolist()) for row in other.samples.responses() for r in row})


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 7, 64])
def test_the_number_of_slots_changes_nothing(
    slots: int, model: RolloutModel, complete: dict[int, tuple[object, ...]]
) -> None:
    assert by_sample(rollout(model, rollout_slots=slots), range(len(PROMPTS))) == complete


def test_order_and_company_change_nothing(model: RolloutModel, complete: dict[int, tuple[object, ...]]) -> None:
    order = [4, 1, 5, 0, 3, 2]
    assert by_sample(rollout(model, [PROMPTS[p] for p in order], order), order) == complete
    for p in range(len(PROMPTS)):
        assert by_sample(rollout(model, [PROMPTS[p]], [p]), [p]) == {p: complete[p]}


def test_further_responses_leave_the_first_ones_as_they_are(
    model: RolloutModel, complete: dict[int, tuple[object, ...]]
) -> None:
    more = by_sample(rollout(model, n_samples_per_prompt=5), range(len(PROMPTS)))
    assert {p: tuple(column[:2] for column in row) for p, row in more.items()} == complete  # type: ignore[index]


def test_a_longer_cache_changes_nothing(model: RolloutModel, complete: dict[int, tuple[object, ...]]) -> None:
    beside = [[1] * 300]
    batch = rollout(model, PROMPTS + beside, list(range(7)))
    assert {p: row for p, row in by_sample(batch, range(7)).items() if p < 6} == complete


def test_a_longer_limit_only_prolongs_what_had_not_ended(
    model: RolloutModel, complete: dict[int, tuple[object, ...]]
) -> None:
    longer = rollout(model, max_new_tokens=20).samples.responses()
    for p, row in enumerate(longer):
        assert [r.tolist()[:12] for r in row] == complete[p][0]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("config", [WIDE, WIDE_MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_at_every_place_of_a_tile_beside_anyone(dtype: torch.dtype, config: ModelConfig) -> None:
    model = wide_model(dtype, config)
    alone = decoded(model, row=0, lengths=[140] + [0] * (ROWS - 1), slots=1, capacity=256)
    for row in (0, 3, 11, 15):
        for other in (0, 17, 500):
            lengths = [other] * ROWS
            lengths[row] = 140
            beside = decoded(model, row, lengths, slots=ROWS, capacity=1024)
            assert torch.equal(beside, alone), (row, other)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("config", [WIDE, WIDE_MOE], ids=["dense", "experts"])
def test_a_row_is_the_same_in_a_pass_over_some_rows(config: ModelConfig) -> None:
    model = wide_model(torch.float32, config)
    assert model.skips_empty_rows
    lengths = [140 + 20 * (place % 3) for place in range(ROWS)]
    complete = decoded(model, 5, lengths, slots=ROWS, capacity=256)
    for others in ([], [0], [9, 12], [*range(8)], [*range(1, ROWS)]):
        in_pass = sorted({5, *others})
        assert torch.equal(decoded(model, 5, lengths, slots=ROWS, capacity=256, in_pass=in_pass), complete), in_pass


def test_a_pass_in_low_precision_has_all_rows() -> None:
    assert not wide_model(torch.bfloat16).skips_empty_rows


def wide_model(dtype: torch.dtype, config: ModelConfig = WIDE) -> RolloutModel:
    generator = torch.Generator().manual_seed(0)
    group = TensorGroup()
    entries = local_entries(rules_for(config), config, placement_with(config, group, ExpertGroup()))
    weights = {
        name: 0.1 * torch.randn(entry.layout.mcore_shape(config, 1), generator=generator) for name, entry in entries
    }
    return RolloutModel(config, {name: t.to(dtype) for name, t in weights.items()}, group)


def decoded(
    model: RolloutModel, row: int, lengths: list[int], slots: int, capacity: int, in_pass: list[int] | None = None
) -> Tensor:
    """Logits of three steps of one row, whose neighbours have read other prompts; length 0 is an unused row.

    Only some rows may be in the passes.
    """
    cache = model.new_cache(slots, capacity, ROWS)
    generator = torch.Generator().manual_seed(1)
    own = torch.randint(WIDE.vocab_size, (lengths[row],), generator=generator)
    steps = torch.randint(WIDE.vocab_size, (3,), generator=generator).tolist()
    neighbour = torch.randint(WIDE.vocab_size, (max(lengths),), generator=generator)
    prefixes = {length: model.prefill(neighbour[:length])[0] for length in set(lengths) if length}
    prefixes[lengths[row]] = model.prefill(own)[0]
    for slot, length in enumerate(lengths[:slots]):
        if length:
            cache.write(slot, prefixes[length])
    rows = []
    tile: CacheTile = cache.tiles[0]
    with model.packed_weights(ROWS):
        for step, token in enumerate(steps):
            tokens = [token if place == row else 100 + 7 * place + step for place in range(ROWS)]
            positions = [length + step if length else 0 for length in lengths]
            if in_pass is None:
                rows.append(model.decode(tokens, positions, tile)[row])
            else:
                some = [[column[place] for place in in_pass] for column in (tokens, positions)]
                rows.append(model.decode(*some, tile, slots=in_pass)[in_pass.index(row)])
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_change_in_place_are_seen_by_the_next_call(dtype: torch.dtype, tmp_path: Path) -> None:
    model = rollout_model(save_tiny_model("llama", tmp_path), dtype=dtype)
    before, logits = rollout(model), model.prefill(torch.tensor(PROMPTS[0]))[1]
    assert by_sample(rollout(model), range(6)) == by_sample(before, range(6))
    model.layers[1].mlp.down.mul_(2)
    assert not torch.equal(model.prefill(torch.tensor(PROMPTS[0]))[1], logits)
    assert by_sample(rollout(model), range(6)) != by_sample(before, range(6))


def test_a_duplicate_prompt_changes_no_bit() -> None:
    model = wide_model(torch.float32)
    cache = model.new_cache(ROWS, 256, ROWS)
    prefix = model.prefill(torch.arange(150))[0]
    for slot in range(ROWS):
        cache.write(slot, prefix)
    tokens, positions = list(range(ROWS)), [150] * ROWS
    alone = model.decode(tokens, positions, cache.tiles[0])
    assert torch.equal(model.decode(tokens, positions, cache.tiles[0], [(row // 2 * 2, 150) for row in tokens]), alone)
