"""Metric sums: any split gives the same means, the vector goes there and back, unknown names are errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.observability.metric_sums import MetricSums, PairwiseSum


def sums_of(**values: tuple[float, float]) -> MetricSums:
    sums = MetricSums()
    for name, (total, weight) in values.items():
        sums.add(name, torch.tensor(total), weight)
    return sums


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12), st.data())
def test_the_mean_does_not_depend_on_how_the_step_is_split(values: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(values) - 1))
    complete, first, second = MetricSums(), MetricSums(), MetricSums()
    for sums, part in ((complete, values), (first, values[:cut]), (second, values[cut:])):
        sums.add("loss", torch.tensor(part).sum(), len(part))
    first.merge(second)
    assert first.means() == complete.means() == {"loss": pytest.approx(sum(values) / len(values))}


def test_adding_the_vectors_of_two_ranks_weighs_their_means() -> None:
    here, there = sums_of(loss=(6.0, 3), nll=(10.0, 100)), sums_of(loss=(2.0, 1), nll=(2.0, 20))
    total = MetricSums.from_vector(here.names, here.vector() + there.vector())
    assert total.means() == pytest.approx({"loss": 8 / 4, "nll": 12 / 120})


def test_the_vector_holds_sums_then_weights_in_name_order() -> None:
    vector = sums_of(nll=(3.0, 4), loss=(1.0, 2)).vector()
    assert vector.dtype == torch.float32 and vector.tolist() == [1, 3, 2, 4]


def test_without_metrics_the_vector_is_empty() -> None:
    assert MetricSums().vector().shape == (0,)


def test_the_vector_goes_there_and_back() -> None:
    sums = sums_of(loss=(1.5, 2), entropy=(0.0, 7))
    back = MetricSums.from_vector(sums.names, sums.vector())
    assert back.names == sums.names and torch.equal(back.vector(), sums.vector())


def test_zeros_are_means_and_weightless_metrics_are_not() -> None:
    assert sums_of(**{"rewards/accuracies": (0.0, 4), "loss": (0.0, 0)}).means("eval/") == {
        "eval/rewards/accuracies": 0
    }


def test_sums_over_many_micro_batches_are_as_exact_as_over_few() -> None:
    count, entry = 100_000, torch.tensor([0.1, 3.0])
    pairwise, running = PairwiseSum(entry), entry.clone()
    for _ in range(count - 1):
        pairwise.add(entry)
        running += entry
    # In pairs each is rounded 17 times.
    assert pairwise.total().double().tolist() == pytest.approx([count * entry[0].item(), 3 * count], rel=1e-6)
    assert running.double().tolist() != pytest.approx([count * entry[0].item(), 3 * count], rel=1e-5)


def test_merging_many_collections_keeps_every_sum_exact() -> None:
    sums = MetricSums()
    for number in range(1000):
        sums.merge(sums_of(loss=(2.0**24 + 2 * number, 1), nll=(float(number), 3)))
    assert sums.means() == {"loss": pytest.approx(2.0**24 + 999, rel=1e-7), "nll": pytest.approx(999 / 6, rel=1e-7)}


def test_names_in_float64_widen_the_vector_and_lose_nothing() -> None:
    sums = sums_of(nll=(3.0, 4))
    sums.add("loss", torch.tensor(2.0**40 + 1, dtype=torch.float64), 1 / 3)
    assert sums.vector().tolist() == [2.0**40 + 1, 3, 1 / 3, 4]
    assert MetricSums.from_vector(sums.names, sums.vector()).vector().dtype == torch.float64


def test_many_names_are_added_at_once() -> None:
    sums = MetricSums.of(["loss", "nll"], torch.tensor([6.0, 2.0]), torch.tensor([3.0, 0.0]))
    assert sums.means() == {"loss": 2.0} and sums.names == ("loss", "nll")
    with pytest.raises(ValueError):
        MetricSums.of(["loss"], torch.zeros(2), torch.zeros(2))


def test_sums_keep_no_graph() -> None:
    sums = MetricSums()
    sums.add("loss", torch.ones((), requires_grad=True) * 2, torch.tensor(1.0))
    assert not sums.vector().requires_grad


def test_adding_does_not_read_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sync(*_: object) -> None:
        raise AssertionError("a sum was read by the host")

    for reader in ("item", "tolist", "cpu", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, reader, no_sync)
    sums, other = MetricSums(), MetricSums()
    sums.add("loss", torch.ones(()), torch.ones(()))
    other.add("loss", torch.ones(()), 1.0)
    sums.merge(other)
    assert sums.vector().shape == (2,)


def test_merging_leaves_the_other_untouched() -> None:
    mine, other = sums_of(loss=(1.0, 1)), sums_of(loss=(2.0, 1), nll=(1.0, 1))
    mine.merge(other)
    mine.add("nll", torch.tensor(5.0), 1)
    assert other.means() == {"loss": 2, "nll": 1} and mine.means() == {"loss": 1.5, "nll": 3}


def test_a_name_outside_the_table_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"rewards/margin'.*did you mean rewards/margins"):
        sums_of(**{"rewards/margin": (0.0, 1)})


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="scalar"):
        MetricSums().add("loss", torch.zeros(3), 3)
    with pytest.raises(ValueError, match=r"must be \[4\]"):
        MetricSums.from_vector(("loss", "nll"), torch.zeros(3))
