"""What a library may change in a process behind our back, to be compared before and after."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any


def process_state() -> dict[str, Any]:
    """Arguments, root logger and warning filters as they are now."""
    root = logging.getLogger()
    return {
        "argv": list(sys.argv),
        "level": root.level,
        "handlers": list(root.handlers),
        "warning filters": list(warnings.filters),
    }
