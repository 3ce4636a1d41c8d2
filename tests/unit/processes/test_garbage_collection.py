"""The collector is off in the block, on afterwards, and does not look through what the block has made."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from mindspeed_dpo.processes.garbage_collection import collection_suspended

SCRIPT = """
import gc
from mindspeed_dpo.processes.garbage_collection import collection_suspended
with collection_suspended():
    made = [[] for _ in range(100_000)]
print(gc.get_freeze_count() >= 100_000, len(gc.get_objects()) < 10_000, gc.isenabled())
"""


def test_what_the_block_makes_is_left_to_no_collection() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_in_the_block_and_then_as_before(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), collection_suspended():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
