"""A run that is resumed by the command under another layout goes on with its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.conftest import OwnRun
from tests.support.closeness import SHIPPED, assert_same_run
from tests.support.commands import succeed, training
from tests.support.resuming import numbers
from tests.support.runs import ACTOR

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_a_run_over_tensor_parallel_ranks_goes_on_over_stages(
    own_run: OwnRun, ray_address: str, tmp_path: Path
) -> None:
    keys = {**own_run.keys, "output_dir": tmp_path}
    middle = own_run.output_dir / "checkpoints" / "iter_0000012"
    succeed(*training((1, 2, 1), **keys), f"training.ray_address={ray_address}", f"{ACTOR}.resume_from={middle}")
    ours, before = numbers(tmp_path), numbers(own_run.output_dir)[12:]
    assert [step["step"] for step in ours] == list(range(13, 25))
    names = ("loss", "rewards/margins", "logps/chosen", "learning_rate", "consumed_samples", "num_tokens")
    assert_same_run(ours, before, SHIPPED, names)
    at_the_end = replace(SHIPPED, first=SHIPPED.later)
    assert_same_run(ours[-1:], before[-1:], at_the_end, ["eval/loss"])
