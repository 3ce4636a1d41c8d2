"""The modules of the layer spec, without megatron-core's groups: norm, gate, attention over segments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.device import ops
from mindspeed_dpo.models.layers import RMSNorm, SegmentAttention, SegmentParams, SwiGLU
from mindspeed_dpo.models.rotary_scaling import angles

pytestmark = pytest.mark.numerics

HEADS, GROUPS, WIDTH = 4, 2, 8
BATCH = PreferenceBatch.from_lists([[5, 1, 2], [7]], [[[3], [4, 9, 6]], [[8, 1], [2]]])


def config(**settings: Any) -> SimpleNamespace:
    values = {
        "use_cpu_initialization": True,
        "params_dtype": torch.float32,
        "sequence_parallel": False,
        "window_size": None,
    }
    return SimpleNamespace(**{**values, "kv_channels": WIDTH, **settings})


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_the_norm_weight_is_marked_for_summing_where_rows_are_split(sequence_parallel: bool) -> None:
    norm = RMSNorm(config(sequence_parallel=sequence_parallel), hidden_size=6, eps=1e-3)
    assert norm.weight.sequence_parallel is sequence_parallel


def test_the_norm_starts_at_one_in_the_dtype_of_parameters_and_uses_its_epsilon() -> None:
    norm = RMSNorm(config(params_dtype=torch.bfloat16), hidden_size=6, eps=0.5)
    assert norm.weight.tolist() == [1.0] * 6 and norm.weight.dtype == torch.bfloat16
    x = torch.randn(3, 6)
    torch.testing.assert_close(norm(x), ops.rms_norm(x, torch.ones(6), 0.5))


def test_the_gate_is_the_first_half() -> None:
    gate = SwiGLU(config=SimpleNamespace())
    assert gate(torch.tensor([[100.0, -100.0, 2.0, 3.0]])).tolist() == [[200.0, 0.0]]


def token_values(packed: PackedBatch, heads: int, seed: int) -> Tensor:
    """[T, 1, heads, d] that depend on token and position alone, as if each layout computed the same layers."""
    table = torch.randn(16, 8, heads, WIDTH, generator=torch.Generator().manual_seed(seed))
    return table[packed.tokens, packed.positions].unsqueeze(1)


def attend(packed: PackedBatch, window: tuple[int, int] | None = None, **settings: Any) -> Tensor:
    """[T, 1, heads * d]; the window is megatron-core's pair: keys before and after the query."""
    cos, sin = angles(packed.positions, torch.tensor([1.0, 0.3, 0.1, 0.01]))
    query, key, value = (token_values(packed, heads, seed) for seed, heads in enumerate((HEADS, GROUPS, GROUPS)))
    attention = SegmentAttention(config(window_size=window), layer_number=1, **settings)
    return attention(query, key, value, packed_seq_params=SegmentParams.from_batch(packed, cos, sin))


@pytest.mark.parametrize("window", [None, (0, 0), (1, 0), (3, 0)])
def test_shared_and_repeated_prompts_give_the_same_attention(window: tuple[int, int] | None) -> None:
    shared, repeated = pack(BATCH), pack(BATCH, share_prompt=False)
    ours, theirs = attend(shared, window), attend(repeated, window)
    assert ours.shape == (len(shared.tokens), 1, HEADS * WIDTH)
    torch.testing.assert_close(ours[shared.score_rows], theirs[repeated.score_rows], rtol=1e-5, atol=1e-6)


def test_padding_changes_no_row() -> None:
    plain, padded = attend(pack(BATCH)), attend(pack(BATCH, multiple_of=16))
    assert len(padded) == 16
    assert torch.equal(padded[: len(plain)], plain)


def test_rows_of_other_prompts_are_not_seen() -> None:
    packed = pack(BATCH.select([1]))
    together = attend(pack(BATCH))
    torch.testing.assert_close(attend(packed), together[-len(packed.tokens) :], rtol=1e-5, atol=1e-6)


def test_a_window_counts_the_query_itself() -> None:
    packed = pack(BATCH)
    values = token_values(packed, GROUPS, 2)
    assert torch.allclose(attend(packed, (0, 0)), values.repeat_interleave(HEADS // GROUPS, 2).flatten(2))
    assert torch.equal(attend(packed, (99, 0)), attend(packed))
    assert not torch.allclose(attend(packed, (1, 0)), attend(packed))


def test_scores_are_scaled_by_the_head_width_unless_set_otherwise() -> None:
    packed = pack(BATCH)
    assert torch.equal(attend(packed), attend(packed, softmax_scale=WIDTH**-0.5))
    assert not torch.allclose(attend(packed), attend(packed, softmax_scale=1.0))


def test_queries_and_keys_are_rotated_by_position_and_values_are_not() -> None:
    packed = pack(BATCH, share_prompt=False)
    cos, sin = angles(packed.positions, torch.tensor([1.0, 0.3, 0.1, 0.01]))
    query, key, value = (token_values(packed, h, seed)[:, 0] for seed, h in enumerate((HEADS, GROUPS, GROUPS)))
    rotated = ops.rotate(query, cos, sin), ops.rotate(key, cos, sin)
    expected = ops.segment_attention(*rotated, value, packed.query_lengths, packed.key_lengths, WIDTH**-0.5)
    torch.testing.assert_close(attend(packed), expected.flatten(1).unsqueeze(1))


def test_the_params_keep_megatron_off_its_own_packed_path() -> None:
    packed = pack(BATCH)
    params = SegmentParams.from_batch(packed, torch.zeros(1), torch.zeros(1))
    assert params.qkv_format == "sbhd"
    assert (params.max_seqlen_q, params.max_seqlen_kv) == (max(packed.query_lengths), max(packed.key_lengths))
