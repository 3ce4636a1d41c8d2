"""Rollouts in a checkpoint's folder: the same bits come back."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts, write_rollouts

ROLLOUTS = RolloutBatch(
    PreferenceBatch.from_lists([[5, 1], [7]], [[[3], [4, 9]], [[8], [2, 0, 6]]]),
    torch.tensor([4, 2]),
    torch.tensor([[True, False], [False, True]]),
    torch.tensor([[-1.1, -2.0 / 3], [-0.1, -7.3]]),
    version=6,
)


def test_rollouts_come_back_bit_by_bit(tmp_path: Path) -> None:
    known = replace(ROLLOUTS.samples, rollout_token_logps=torch.tensor([-0.1, -0.2, -0.3, -4.0, -0.5, -1e-9, -7.0]))
    for written in (ROLLOUTS, replace(ROLLOUTS, logps=None), replace(ROLLOUTS, samples=known)):
        write_rollouts(tmp_path, written)
        actual = read_rollouts(tmp_path)
        assert actual is not None and actual.version == 6
        for one, other in ((written, actual), (written.samples, actual.samples)):
            for field in fields(one):
                ours, theirs = getattr(one, field.name), getattr(other, field.name)
                if isinstance(ours, torch.Tensor):
                    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), field.name
        assert (actual.logps is None) == (written.logps is None)


def test_a_folder_without_rollouts_has_none(tmp_path: Path) -> None:
    assert read_rollouts(tmp_path) is None


def test_the_file_of_earlier_versions_is_read(tmp_path: Path) -> None:
    write_rollouts(tmp_path, ROLLOUTS)
    (tmp_path / "rollouts.pt").rename(tmp_path / "answers.pt")
    actual = read_rollouts(tmp_path)
    assert actual is not None and torch.equal(actual.rows, ROLLOUTS.rows)
