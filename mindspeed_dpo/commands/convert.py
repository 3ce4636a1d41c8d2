"""Converts weights between Hugging Face folders and Megatron-core checkpoints.

Runs on any machine with torch and safetensors: no accelerator and no Megatron are needed, and no model is built.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import log_to_console
from mindspeed_dpo.storage.write_errors import failure_sentence
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.weights.conversion.cli import UsageError, parse
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.errors import HfConfigError, WeightsError

USAGE, FAILURE = 2, 1


def main(arguments: Sequence[str] | None = None, program: str = "convert_ckpt.py") -> int:
    """Run one conversion.

    Args:
        arguments: The command line; by default that of the process.
        program: Its name in messages.

    Returns:
        Exit code: 0 for success, 1 for an error in weights or files, 2 for an error in the command line.
    """
    try:
        with live_status.shown(), log_to_console(timestamps=False):
            summary = convert(parse(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return USAGE
    except (WeightsError, HfConfigError, MalformedDataError, OSError) as error:
        sys.stderr.write(f"{program}: {failure_sentence(error)}\n")
        return FAILURE
    sys.stdout.write(f"done: {summary.path}\n")
    return 0
