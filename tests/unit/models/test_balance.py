"""The balance losses: values by hand and by transformers, the same for either layout of prompts, padding left out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.models.moe.balance_loss import BalanceLoss
from mindspeed_dpo.models.moe.expert_load import RouterLoad, load_metrics
from mindspeed_dpo.models.moe.router import Routing, route
from mindspeed_dpo.models.moe.router_training import updated_bias
from mindspeed_dpo.models.moe.sequence_rows import SequenceRows
from mindspeed_dpo.weights.hf.hf_config import model_config_from_hf
from tests.support.tiny_models import tiny_config

MODEL = model_config_from_hf(tiny_config("qwen3_moe").to_dict())
EXPERTS, TOP_K = 6, 2
BATCH = PreferenceBatch.from_lists([[5, 1, 2], [7]], [[[3], [4, 9, 6]], [[8, 1], [2, 0, 5, 6]]])
BOTH = RouterConfig(moe_aux_loss_coeff=1.0, moe_z_loss_coeff=1.0)
ALONE = SimpleNamespace(tensor_model_parallel_size=1, context_parallel_size=1)


def logits_of(batch: PackedBatch, seed: int = 1) -> Tensor:
    """[T, E], the same for the same token at the same place."""
    table = torch.randn(10, 20, EXPERTS, generator=torch.Generator().manual_seed(seed))
    return table[batch.tokens, batch.positions]


def sums(batch: PackedBatch) -> Tensor:
    """[2], both losses summed over the pairs."""
    loss = BalanceLoss(MODEL, BOTH)
    loss.begin_step(1.0)
    loss.add_to(torch.zeros(1, requires_grad=True), route(logits_of(batch), MODEL), SequenceRows.of(batch, ALONE))
    assert loss.sums is not None
    return loss.sums


def by_sequence() -> Tensor:
    """[2], each response behind its prompt, alone."""
    total = torch.zeros(2)
    for prompt, responses in zip(BATCH.prompts(), BATCH.responses(), strict=True):
        for response in responses:
            tokens = torch.cat((prompt, response))
            table = torch.randn(10, 20, EXPERTS, generator=torch.Generator().manual_seed(1))
            logits = table[tokens.long(), torch.arange(len(tokens))]
            aux = load_balancing_loss_func((logits,), EXPERTS, TOP_K) / TOP_K
            total += torch.stack((aux, logits.logsumexp(-1).square().mean())) / len(responses)
    return total


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("multiple_of", [1, 16])
def test_the_losses_are_those_of_each_sequence_alone(share_prompt: bool, multiple_of: int) -> None:
    packed = pack(BATCH, share_prompt=share_prompt, multiple_of=multiple_of)
    torch.testing.assert_close(sums(packed), by_sequence())


@pytest.mark.parametrize("share_prompt", [True, False])
def test_a_response_that_a_ranking_does_not_have_takes_no_part(share_prompt: bool) -> None:
    lists = [[response.tolist() for response in row] for row in BATCH.responses()]
    prompts = [prompt.tolist() for prompt in BATCH.prompts()]
    ranking = PreferenceBatch.from_lists(prompts, [[*row, []] for row in lists])
    packed = pack(ranking, share_prompt=share_prompt)
    torch.testing.assert_close(sums(packed), by_sequence())
    rows, of_pairs = SequenceRows.of(packed, ALONE), SequenceRows.of(pack(BATCH, share_prompt=share_prompt), ALONE)
    assert rows.weights.tolist() == [0.5, 0.5, 0.0] * 2 and rows.num_responses == 3
    assert torch.equal(rows.membership.unflatten(0, (2, 3))[:, :2].flatten(0, 1), of_pairs.membership)
    assert not rows.membership[2::3].any() and rows.lengths[2::3].tolist() == [0, 0]


def test_pairs_of_weight_zero_do_not_count() -> None:
    packed = pack(BATCH)
    first = sums(replace(packed, weights=torch.tensor([1.0, 0.0])))
    second = sums(replace(packed, weights=torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(first + second, sums(packed))
    assert not bool(sums(replace(packed, weights=torch.zeros(2))).any())


def test_a_balanced_load_has_a_loss_of_one() -> None:
    packed = pack(PreferenceBatch.from_lists([[1]], [[[2, 3], [4, 5]]]))
    experts = torch.arange(5)[:, None] * 2 % EXPERTS + torch.arange(2)
    # Rows 0, 1, 2 and 0, 3, 4 each choose all experts once.
    experts[3:] = experts[1:3]
    loss = BalanceLoss(MODEL, BOTH)
    loss.begin_step(1.0)
    routing = Routing(torch.zeros(5, 2), experts, torch.zeros(5, EXPERTS))
    loss.add_to(torch.zeros(1), routing, SequenceRows.of(packed, ALONE))
    assert loss.sums is not None
    torch.testing.assert_close(loss.sums[0], torch.tensor(1.0))


def test_the_gradient_is_that_of_the_loss_times_its_weight_and_scale() -> None:
    packed = pack(BATCH)
    rows, logits = SequenceRows.of(packed, ALONE), logits_of(packed).requires_grad_()
    loss = BalanceLoss(MODEL, RouterConfig(moe_aux_loss_coeff=0.5, moe_z_loss_coeff=0.25))
    loss.begin_step(3.0)
    output = torch.ones(2, requires_grad=True)
    (7 * loss.add_to(output, route(logits, MODEL), rows).sum()).backward()
    assert output.grad is not None and output.grad.tolist() == [7.0, 7.0]
    actual, logits.grad = logits.grad, None
    again = BalanceLoss(MODEL, RouterConfig(moe_aux_loss_coeff=0.5, moe_z_loss_coeff=0.25))
    routing = route(logits, MODEL)
    (3 * (0.5 * again._aux(routing, rows) + 0.25 * again._z(logits, rows))).backward()
    torch.testing.assert_close(actual, logits.grad)


def pooled_by_transformers(layers: list[Tensor], batch: PackedBatch) -> Tensor:
    """Its loss of a micro-batch of one pair, summed over the pairs."""
    members = SequenceRows.of(batch, ALONE).membership.bool().unflatten(0, (-1, 2))
    pairs = [tuple(torch.cat([logits[rows] for rows in pair]) for logits in layers) for pair in members]
    return torch.stack([load_balancing_loss_func(logits, EXPERTS, TOP_K) for logits in pairs]).sum()


@pytest.mark.parametrize("share_prompt", [True, False])
def test_the_pooled_loss_is_that_of_transformers_for_each_pair(share_prompt: bool) -> None:
    packed = pack(BATCH, share_prompt=share_prompt, multiple_of=16)
    for layers in ([logits_of(packed).requires_grad_()], [logits_of(packed, seed).requires_grad_() for seed in (1, 2)]):
        model = replace(MODEL, num_layers=len(layers))
        balance = BalanceLoss(model, RouterConfig(router_aux_loss_coef=0.5))
        balance.begin_step(3.0)
        output = torch.zeros(1, requires_grad=True)
        with balance.of_pass(SequenceRows.of(packed, ALONE)) as attach:
            for logits in layers:
                output = attach(output, route(logits, model))
        output.sum().backward()
        actual = [logits.grad for logits in layers]
        expected = pooled_by_transformers(layers, packed)
        assert balance.pooled_sum is not None
        torch.testing.assert_close(balance.pooled_sum, expected.detach())
        gradients = torch.autograd.grad(1.5 * expected, layers)
        torch.testing.assert_close(actual, list(gradients))


def load_of(packed: PackedBatch) -> RouterLoad:
    """What is counted in layer 1 of a micro-batch."""
    load = RouterLoad(MODEL)
    load.add(route(logits_of(packed), MODEL), SequenceRows.of(packed, ALONE), 1)
    return load


@pytest.mark.parametrize("share_prompt", [True, False])
def test_tokens_are_counted_once_for_each_sequence(share_prompt: bool) -> None:
    packed = pack(BATCH, share_prompt=share_prompt, multiple_of=16)
    expected, entropy = torch.zeros(2, EXPERTS, dtype=torch.int64), 0.0
    table = torch.randn(10, 20, EXPERTS, generator=torch.Generator().manual_seed(1))
    for prompt, responses in zip(BATCH.prompts(), BATCH.responses(), strict=True):
        for response in responses:
            tokens = torch.cat((prompt, response)).long()
            scores = table[tokens, torch.arange(len(tokens))].softmax(-1)
            expected[1] += torch.bincount(scores.topk(TOP_K).indices.flatten(), minlength=EXPERTS)
            entropy += float(torch.distributions.Categorical(scores).entropy().sum())
    load = load_of(packed)
    assert load.counts is not None and torch.equal(load.counts, expected)
    assert load.entropy is not None and float(load.entropy) == pytest.approx(entropy, rel=1e-5)
    without = load_of(replace(packed, weights=torch.zeros(2)))
    assert without.counts is not None and not bool(without.counts.any())


def test_the_load_by_hand() -> None:
    model = replace(MODEL, num_layers=3, num_experts=4, first_k_dense_replace=1)
    counts = torch.tensor([[0, 0, 0, 0], [6, 2, 0, 0], [2, 2, 2, 2]])
    # Three times the mean in one layer, the mean in the other; two of eight experts without a token.
    torch.testing.assert_close(load_metrics(counts, model), torch.tensor([2.0, 0.25]))
    bias = updated_bias(torch.tensor([0.1, 0.1, 0.0, 0.0]), torch.tensor([6, 2, 0, 0]), 0.01)
    torch.testing.assert_close(bias, torch.tensor([0.09, 0.1, 0.01, 0.01]))
