"""The policy model's stages: parameter names, marks, random weights, what the head returns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.rotary_scaling import inverse_frequencies
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.weights import ParallelLayout
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.name_mapping import local_entries
from tests.support.processes import pool
from tests.unit.models import policy_jobs as jobs
from tests.unit.models.policy_jobs import MODEL, TIED

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

SPLIT_ALONG_ROWS = (".linear_qkv.weight", ".linear_qkv.bias", ".linear_fc1.weight", "word_embeddings.weight")
SPLIT_ALONG_ROWS += ("output_layer.weight",)
SPLIT_ALONG_COLUMNS = (".linear_proj.weight", ".linear_fc2.weight")


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize(
    "model",
    [replace(MODEL, add_qkv_bias=False), replace(MODEL, qk_layernorm=False), replace(TIED, add_qkv_bias=False)],
    ids=["head norms", "biases", "tied"],
)
def test_parameters_are_named_as_the_weights_are(model: ModelConfig, tp: int, pp: int) -> None:
    topology = Topology(tp, pp)
    described = pool(tp * pp).run(jobs.describe, model, tp, pp, False, False)
    for rank, actual in enumerate(described):
        place = topology.place(rank)
        placement = ParallelLayout(tp=tp, pp=pp).placement(2, place.tp_rank, place.pp_rank)
        wanted = {name for name, _ in local_entries(rules_for(model), model, placement)}
        assert set(actual) == wanted, rank


@pytest.mark.parametrize("random_init", [True, False], ids=["random weights", "weights left for loading"])
def test_split_parameters_are_marked_so_that_the_gradient_norm_counts_them(random_init: bool) -> None:
    for actual in pool(2).run(jobs.describe, MODEL, 2, 1, random_init, False):
        for name, parameter in actual.items():
            rows, columns = name.endswith(SPLIT_ALONG_ROWS), name.endswith(SPLIT_ALONG_COLUMNS)
            assert parameter.split_along == (0 if rows else 1 if columns else None), name
        assert sum(parameter.split_along is not None for parameter in actual.values()) == 2 + 2 * 5


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_norms_are_summed_over_tensor_ranks_where_rows_are_split(sequence_parallel: bool) -> None:
    (actual, _) = pool(2).run(jobs.describe, MODEL, 2, 1, True, sequence_parallel)
    norms = {name for name in actual if "norm" in name}
    assert len(norms) == 2 * 4 + 1
    # Norms of heads see all rows of their own heads: what they sum over lies within megatron-core's attention.
    of_rows = {name for name in norms if "q_layernorm" not in name and "k_layernorm" not in name}
    assert {actual[name].sums_over_tensor_ranks for name in of_rows} == {sequence_parallel}


def test_the_vocabulary_is_padded_and_split() -> None:
    for actual in pool(2).run(jobs.describe, MODEL, 2, 1, False, False):
        assert actual["embedding.word_embeddings.weight"].shape == (12, 16)
        assert actual["output_layer.weight"].shape == (12, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_seed_gives_one_set_of_weights_in_the_requested_dtype(dtype: torch.dtype) -> None:
    first, again, other = (pool(1).run(jobs.parameters, MODEL, seed, dtype)[0] for seed in (3, 3, 4))
    assert {parameter.dtype for parameter in first.values()} == {dtype}
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name, parameter in first.items() if parameter.dim() == 2]
    assert len(matrices) == 2 * 4 + 2
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


def test_casting_the_model_does_not_round_the_rotary_frequencies() -> None:
    ((frequencies, dtype),) = pool(1).run(jobs.frequencies_after_casting, torch.bfloat16)
    assert dtype == torch.bfloat16 and frequencies.dtype == torch.float32
    assert torch.equal(frequencies, inverse_frequencies(MODEL))


def test_the_head_returns_a_row_per_response_token_and_statistics_where_requested() -> None:
    (plain,) = pool(1).run(jobs.score, MODEL, False)
    (full,) = pool(1).run(jobs.score, MODEL, True)
    tokens = len(jobs.BATCH.response_tokens)
    assert (plain.shape, full.shape) == ((tokens, 1), (tokens, 5))
    assert torch.equal(plain[:, 0], full[:, 0])


@pytest.mark.parametrize("model", [MODEL, TIED], ids=["own output layer", "tied"])
def test_logits_have_the_real_vocabulary_and_do_not_depend_on_the_split(model: ModelConfig) -> None:
    (complete,) = pool(1).run(jobs.logits, model, 1)
    parts = pool(2).run(jobs.logits, model, 2)
    assert complete.shape[1] == 21 and [part.shape[1] for part in parts] == [12, 9]
    torch.testing.assert_close(torch.cat(parts, -1), complete, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_list", [True, False])
def test_hidden_states_of_the_stage_before_reach_the_decoder(as_list: bool) -> None:
    assert pool(1).run(jobs.received, as_list) == [True]
