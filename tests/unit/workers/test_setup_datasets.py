"""What decides which rows a step takes: everything that does, and nothing that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.sampler import sampling_of
from tests.unit.workers.pairs import PAIRS, random_run, write_pairs


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return random_run(tmp_path)


def changed(run: RunConfig, group: str, **values: Any) -> RunConfig:
    return replace(run, actor=replace(run.actor, **{group: replace(getattr(run.actor, group), **values)}))


def seeded(run: RunConfig, seed: int) -> RunConfig:
    return replace(run, loop=replace(run.loop, seed=seed))


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("batch", {"global_batch_size": 64}),
        ("data", {"split": "60,40,0"}),
        ("data", {"no_shuffle": True}),
        ("data", {"seq_length": 8}),
        ("data", {"truncation": "keep_start"}),
    ],
)
def test_whatever_changes_the_samples_shows(group: str, values: dict[str, Any], run: RunConfig) -> None:
    assert sampling_of(changed(run, group, **values), 5) != sampling_of(run, 5)


def test_the_seed_the_rows_the_tokens_and_the_mixture_show(run: RunConfig, tmp_path: Path) -> None:
    other = str(write_pairs(tmp_path / "other", PAIRS[:-1]))
    paths = [other, f"1,{run.actor.data.data_path},1,{other}", f"3,{run.actor.data.data_path},1,{other}"]
    variants = [sampling_of(seeded(run, 1), 5), sampling_of(seeded(run, 2), 5), sampling_of(seeded(run, 1), 4)]
    variants += [sampling_of(changed(run, "data", data_path=path), 5) for path in paths]
    assert len({str(variant) for variant in variants}) == 6


def test_how_the_rows_are_computed_does_not_show(run: RunConfig, tmp_path: Path) -> None:
    moved = changed(run, "data", data_path=str(write_pairs(tmp_path / "moved")))
    moved = changed(changed(moved, "batch", micro_batch_size=2, share_prompt=False), "optimizer", lr=0.5)
    assert sampling_of(moved, 5) == sampling_of(run, 5)
