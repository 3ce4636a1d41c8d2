"""Ray's messages to the driver: they go to its log file, not between the lines of the progress display.

Ray prints what its processes report, such as the last lines of raylet's log when raylet has died, and has no setting
against it. The run reports in a sentence of its own what has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray._private import worker

logger = logging.getLogger(__name__)


def log_ray_messages() -> None:
    """Write Ray's messages to the log file of this process from now on."""
    worker.print_to_stdstream = _log


def _log(message: Mapping[str, Any], *_: object, **__: object) -> None:
    for text in message["lines"]:
        logger.debug("Ray (%s): %s", message["pid"], text)
