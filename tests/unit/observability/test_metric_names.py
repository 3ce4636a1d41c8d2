"""The table of metrics: complete rows, families, unknown names."""

from __future__ import annotations

import pytest

from mindspeed_dpo.observability.metric_names import METRICS, metric


def test_every_row_has_a_unit_a_sentence_and_a_form_that_prints() -> None:
    for name, row in METRICS.items():
        assert row.unit and row.help.endswith("."), name
        assert format(0.5, row.form)


def test_evaluation_and_loss_terms_belong_to_their_family() -> None:
    assert metric("eval/rewards/margins") is metric("eval/chat/rewards/margins") is metric("rewards/margins")
    assert "sigmoid" in metric("loss/sigmoid").help and "ipo" in metric("eval/loss/ipo").help


@pytest.mark.parametrize("name", ["", "los", "loss/", "eval/", "rewards"])
def test_unknown_names_are_errors(name: str) -> None:
    with pytest.raises(ValueError, match="is not in the table"):
        metric(name)
