"""The checks of a run before it allocates devices; the dry run performs only these."""

from __future__ import annotations

import logging
import sys

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.device_checks import check_devices
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.observability.logs import log_to_console
from mindspeed_dpo.processes.exit_codes import DONE, FAILED, INTERRUPTED
from mindspeed_dpo.trainers.export.export_result import check_export
from mindspeed_dpo.trainers.output_checks import check_outputs
from mindspeed_dpo.trainers.output_lock import check_unlocked
from mindspeed_dpo.trainers.reference_responses import check_reference_responses
from mindspeed_dpo.trainers.resuming.resume import with_own_checkpoints, with_resumed_output_dir
from mindspeed_dpo.trainers.resuming.resume_report import resume_lines
from mindspeed_dpo.trainers.row_selection import num_reference_rows
from mindspeed_dpo.trainers.run_inputs import RunInputs, open_inputs

logger = logging.getLogger(__name__)


def open_and_check(config: RunConfig, with_fingerprints: bool = True) -> RunInputs:
    """Open what a run reads, try what it writes, and log what it resumes.

    Args:
        config: Settings of the run.
        with_fingerprints: Read all weights for their fingerprints, which checkpoints record.

    Raises:
        ValueError: An input does not fit the run, or a disk has no space.
        OSError: A file cannot be read, or a folder not written.
    """
    inputs = open_inputs(config, with_fingerprints)
    for line in resume_lines(inputs.config, inputs.resume_point) if inputs.resume_point else ():
        logger.info("%s", line)
    check_reference_responses(inputs)
    check_export(inputs.config)
    num_steps = config.loop.train_iters - inputs.first_step
    check_outputs(inputs.config, num_steps, num_reference_rows(inputs))
    return inputs


def check_start(config: RunConfig) -> str:
    """Check all that a run does before it takes devices, without starting Ray; nothing is left in any folder.

    Returns:
        Where the run would be.

    Raises:
        ValueError: An input does not fit the run, another run uses its folders, or a disk has no space.
        OSError: A file cannot be read, or a folder not written.
        ClusterError: There are too few devices, or the cluster does not respond.
    """
    config = with_resumed_output_dir(with_own_checkpoints(config))
    check_unlocked(config)
    return check_devices(open_and_check(config, with_fingerprints=False).config)


def report_start(config: RunConfig) -> int:
    """Report on the console whether a run would start; the exit code is 0 if it would, as far as can be known."""
    try:
        with log_to_console():
            place = check_start(config)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ClusterError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    sys.stdout.write(f"\nall checks passed; the run would start {place}\n")
    return DONE
