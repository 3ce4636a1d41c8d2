"""The log-probability head against log-softmax in float64: values, gradients, chunks, padding, vocabulary shards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.batches.logprob_columns import ENTROPY, LOG_COLLISION, LOGP, MEAN_LOGIT, TOP1_HIT
from mindspeed_dpo.models import chunked_logprob_head
from mindspeed_dpo.models.chunked_logprob_head import LogProbHead
from mindspeed_dpo.models.vocab_shard import VocabShard
from tests.support.processes import pool
from tests.unit.models.head_jobs import Case, Scored, score, score_shard

pytestmark = pytest.mark.numerics

# Token 0, the first ids of shards of eight, the last one; some twice.
LABELS = [0, 8, 20, 7, 0, 16, 12, 8, 1]
CHUNKS = {"rows, none saved": (1, 0), "two rows, two chunks saved": (48, 100), "all rows, saved": (1 << 24, 1 << 26)}


@pytest.fixture(params=CHUNKS.values(), ids=CHUNKS.keys())
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the head's pieces are."""
    monkeypatch.setattr(chunked_logprob_head, "CHUNK_ELEMENTS", request.param[0])
    monkeypatch.setattr(chunked_logprob_head, "SAVED_ELEMENTS", request.param[1])


def case(vocab_size: int = 21, dtype: torch.dtype = torch.float32) -> Case:
    """Rows and weights whose logits are a few nats apart; the vocabulary is padded to 24."""
    generator = torch.Generator().manual_seed(vocab_size)
    hidden, weight = torch.randn(9, 6, generator=generator), torch.randn(24, 6, generator=generator)
    upstream = torch.randn(9, generator=generator)
    labels = torch.tensor(LABELS) % vocab_size
    return Case(hidden.to(dtype), weight.to(dtype), labels, upstream, vocab_size)


def by_definition(inputs: Case) -> Scored:
    """Everything in float64 from the full logits over the real vocabulary."""
    hidden, weight = inputs.hidden.double().requires_grad_(), inputs.weight.double().requires_grad_()
    logits = (hidden @ weight.t())[:, : inputs.vocab_size]
    log_probs = logits.log_softmax(-1)
    logps = log_probs.gather(1, inputs.labels[:, None])[:, 0]
    logps.backward(inputs.upstream.double())
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    hit = (logits.argmax(-1) == inputs.labels).double()
    collision = log_probs.exp().square().sum(-1).log()
    columns = torch.stack((logps, entropy, hit, logits.mean(-1), collision), -1).detach()
    assert hidden.grad is not None and weight.grad is not None
    return Scored(columns, hidden.grad, weight.grad)


def complete(inputs: Case, statistics: bool = True) -> Scored:
    return score(inputs, VocabShard(0, len(inputs.weight), inputs.vocab_size), inputs.weight, statistics)


def close(actual: Scored, expected: Scored, tolerance: float = 3e-6) -> None:
    for name in ("columns", "hidden_grad", "weight_grad"):
        one, other = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(
            one.double(), other, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("vocab_size", [21, 24])
def test_scores_and_gradients_follow_log_softmax(vocab_size: int) -> None:
    inputs = case(vocab_size)
    close(complete(inputs), by_definition(inputs))


def test_some_labels_are_hit_and_some_are_not() -> None:
    inputs = case()
    likeliest = (inputs.hidden @ inputs.weight.t())[:, : inputs.vocab_size].argmax(-1)
    inputs = Case(
        inputs.hidden, inputs.weight, inputs.labels.where(torch.arange(9) % 2 == 0, likeliest), inputs.upstream, 21
    )
    assert complete(inputs).columns[1::2, TOP1_HIT].tolist() == [1.0] * 4
    close(complete(inputs), by_definition(inputs))


def test_without_statistics_there_is_one_column_with_the_same_values() -> None:
    actual, plain = complete(case()), complete(case(), statistics=False)
    assert plain.columns.shape == (9, 1)
    assert torch.equal(plain.columns[:, LOGP], actual.columns[:, LOGP])
    assert torch.equal(plain.hidden_grad, actual.hidden_grad) and torch.equal(plain.weight_grad, actual.weight_grad)


@pytest.mark.parametrize("column", [ENTROPY, TOP1_HIT, MEAN_LOGIT, LOG_COLLISION])
def test_statistics_carry_no_gradient(column: int) -> None:
    inputs = case()
    shard = VocabShard(0, 24, inputs.vocab_size)
    actual = score(inputs, shard, inputs.weight, statistics=True, column=column)
    assert not actual.hidden_grad.any() and not actual.weight_grad.any()


@pytest.mark.usefixtures("chunks")
def test_padded_rows_of_the_weight_change_nothing_and_get_no_gradient() -> None:
    inputs = case()
    huge = inputs.weight.clone()
    huge[inputs.vocab_size :] = 1e30
    before, after = (
        complete(inputs),
        complete(Case(inputs.hidden, huge, inputs.labels, inputs.upstream, inputs.vocab_size)),
    )
    assert torch.equal(after.columns, before.columns)
    assert torch.equal(after.hidden_grad, before.hidden_grad)
    assert torch.equal(after.weight_grad, before.weight_grad)
    assert not after.weight_grad[inputs.vocab_size :].any()


def test_large_logits_do_not_overflow() -> None:
    inputs = case()
    inputs = Case(inputs.hidden * 300, inputs.weight, inputs.labels, inputs.upstream, inputs.vocab_size)
    close(complete(inputs), by_definition(inputs), tolerance=2e-4)


@pytest.mark.usefixtures("chunks")
def test_low_precision_is_summed_in_float32() -> None:
    inputs = case(dtype=torch.bfloat16)
    actual, expected = complete(inputs), by_definition(inputs)
    assert actual.columns.dtype == torch.float32
    assert (actual.hidden_grad.dtype, actual.weight_grad.dtype) == (torch.bfloat16, torch.bfloat16)
    logps = actual.columns[:, LOGP].double()
    torch.testing.assert_close(logps, expected.columns[:, LOGP], rtol=0, atol=3e-2)
    torch.testing.assert_close(actual.weight_grad.double(), expected.weight_grad, rtol=2e-2, atol=2e-2)


def test_no_more_logits_exist_than_a_chunk_has_and_no_more_are_saved_than_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked_logprob_head, "CHUNK_ELEMENTS", 48)
    monkeypatch.setattr(chunked_logprob_head, "SAVED_ELEMENTS", 100)
    made, mask = [], chunked_logprob_head._mask_padding

    def watched(logits: Tensor, shard: VocabShard) -> Tensor:
        made.append(logits.numel())
        return mask(logits, shard)

    monkeypatch.setattr(chunked_logprob_head, "_mask_padding", watched)
    complete(case())
    # Five chunks forward; backward the three that were not saved.
    assert made == [48, 48, 48, 48, 24, 48, 48, 24]


def test_without_a_gradient_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, allowed = case(), []
    monkeypatch.setattr(chunked_logprob_head._LogProbs, "apply", lambda *args: allowed.append(args[-1]))
    shard = VocabShard(0, 24, 21)
    for hidden in (inputs.hidden, inputs.hidden.clone().requires_grad_()):
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                LogProbHead.forward(None, hidden, inputs.labels, shard, inputs.weight)  # type: ignore[arg-type]
    assert allowed == [0, 0, 0, chunked_logprob_head.SAVED_ELEMENTS]


@pytest.mark.distributed
@pytest.mark.parametrize("chunk_elements", [1, 1 << 24])
@pytest.mark.parametrize("vocab_size", [24, 21, 13, 12, 9], ids=lambda size: f"{size} of 24 tokens")
def test_a_split_vocabulary_scores_like_a_full_one(vocab_size: int, chunk_elements: int) -> None:
    inputs = case(vocab_size)
    expected = by_definition(inputs)
    parts = pool(2).run(score_shard, inputs, chunk_elements)
    for part in parts:
        close(Scored(part.columns, part.hidden_grad, torch.cat([p.weight_grad for p in parts])), expected)
    assert torch.equal(parts[0].columns, parts[1].columns)


@pytest.mark.parametrize(("start", "size", "vocab_size", "real"), [(0, 8, 21, 8), (16, 8, 21, 5), (24, 8, 21, 0)])
def test_a_shard_knows_its_real_columns(start: int, size: int, vocab_size: int, real: int) -> None:
    assert VocabShard(start, size, vocab_size).num_real == real


def test_a_shard_finds_exactly_its_own_labels() -> None:
    column, here = VocabShard(8, 8, 21).local_columns(torch.tensor([0, 7, 8, 15, 16, 20]))
    assert column.tolist() == [0, 0, 0, 7, 0, 0]
    assert here.tolist() == [False, False, True, True, False, False]
