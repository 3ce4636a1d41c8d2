"""What is imported before a test run is forked off: libraries that tests need, and nothing of the project."""

from __future__ import annotations

import importlib
import warnings

with warnings.catch_warnings():
    # megatron-core says on import which optional libraries are not there.
    warnings.simplefilter("ignore")
    for _name in ("torch", "numpy", "pytest", "hypothesis", "megatron.core.parallel_state", "megatron.core.optimizer"):
        importlib.import_module(_name)
