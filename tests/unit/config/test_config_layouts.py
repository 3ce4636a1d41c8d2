"""Layouts of the shipped configurations: they fit their devices, with the overrides that their first lines name too."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from mindspeed_dpo.config.estimates.run_summary import device_memory
from mindspeed_dpo.config.loading.compose import SHIPPED_CONFIGS, available_configs
from mindspeed_dpo.config.run import RunConfig
from tests.support.composing import load_quickly

ROOM = 48 * 2**30
"""Bytes of 64 GiB that an estimate may use; the rest is for what it leaves out."""
OTHER_SIZE = re.compile(r"^# On (\d+) NPUs .*:\n((?:#   \S+\n)+)", re.MULTILINE)
SIZE = re.compile(r"\b[Oo]n (\d+)(?:,| NPUs)")


def run_of(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    return load_quickly(name, overrides, exists=lambda path: True)


def num_fitting_devices(run: RunConfig) -> int:
    """The devices of the run, which must fit all of them."""
    for pool, parts in device_memory(run).items():
        assert sum(size for _, size in parts) < ROOM, (run.name, pool, parts)
    return sum(sum(sizes) for sizes in run.pools.values())


@pytest.mark.parametrize("name", available_configs())
def test_a_shipped_run_fits_every_number_of_devices_that_its_file_names(name: str) -> None:
    run, head = run_of(name), (SHIPPED_CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").partition("defaults:")[0]
    fits = {num_fitting_devices(run)}
    for number, lines in OTHER_SIZE.findall(head):
        overrides = [line.removeprefix("#   ") for line in lines.splitlines()]
        assert num_fitting_devices(run_of(name, overrides)) == int(number)
        fits.add(int(number))
    if run.actor.model.has_experts and run.loop.device != "cpu":
        # Where a model is too large for one or two nodes, the file says so.
        too_few = {int(number) for number in SIZE.findall(head)} - fits
        assert fits | too_few >= {8, 16, 64} and max(too_few, default=0) < min(fits), (fits, too_few)
