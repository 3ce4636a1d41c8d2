"""Where the recorded TRL numbers and the sample data lie, when they are at hand.

They are not part of the repository: a test that needs them asks `require` and is skipped, saying so, where they are
absent. Set MINDSPEED_DPO_SHARED to the folder that holds `oracle/` and `data/`, or keep it beside the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2].parent / "shared"
SHARED = Path(os.environ.get("MINDSPEED_DPO_SHARED", _BESIDE))


def require(*parts: str) -> Path:
    """Path below the shared folder, e.g. `require("oracle", "policy")`; skips the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared reference data (set MINDSPEED_DPO_SHARED)")
    return path
