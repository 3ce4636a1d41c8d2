"""The reference's greedy responses to the prompts of evaluations: generated once and kept in the output folder.

Before the first update the policy generates them where it is the reference. Otherwise, and where a resumed run does not
find them, the rollout reads the reference's weights for this one call.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.controller.role_groups import RolloutGroup
from mindspeed_dpo.data.datasets.data_fingerprint import prompts_fingerprint
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPrompts
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts, write_rollouts
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, CheckpointError
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.row_selection import evaluation_rows
from mindspeed_dpo.trainers.run_inputs import RunInputs
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.workers.setup.open_datasets import evaluation_data
from mindspeed_dpo.workers.setup.stop_tokens import stop_ids

logger = logging.getLogger(__name__)

FOLDER = "eval_reference"
"""Folder of the responses within the output folder."""


def reference_responses(
    inputs: RunInputs, rollout: RolloutGroup, sets: Mapping[str, NDArray[np.int64]]
) -> dict[str, RolloutBatch]:
    """Return the reference's greedy responses to the prompts of each set, K = 1.

    Args:
        inputs: The inputs of the run.
        rollout: Holds the policy's weights of the run's first step.
        sets: Set name -> its [n] int64 dataset rows; empty sets are dropped.

    Raises:
        WriteError: They cannot be stored.
    """
    sets = {name: rows for name, rows in sets.items() if len(rows)}
    if not sets:
        return {}
    folder, fingerprint = Path(inputs.config.loop.output_dir, FOLDER), responses_fingerprint(inputs, sets)
    kept = _read(folder, fingerprint)
    if kept is None:
        of_reference = inputs.first_step > 0 or not inputs.config.starts_as_reference
        with live_status.phase("responses of the reference"):
            kept = RolloutBatch.concat([rollout.generate_greedy(rows, of_reference) for rows in sets.values()])
        _write(folder, fingerprint, kept)
    starts = np.cumsum([0, *map(len, sets.values())]).tolist()
    return {name: kept.select(range(start, stop)) for name, start, stop in zip(sets, starts, starts[1:], strict=False)}


def responses_fingerprint(inputs: RunInputs, sets: Mapping[str, NDArray[np.int64]]) -> str:
    """Hash what the responses depend on: weights, architecture, number format, prompts, and how they are decoded.

    The rows of each set are [n] int64.
    """
    config, ref = inputs.config, inputs.config.ref
    assert ref is not None, "an online run has a reference"
    rollout = config.actor.rollout
    parts = {
        "weights": inputs.weights.get("reference"),
        "seed": config.loop.seed if ref.checkpoint.random_init or ref.checkpoint.load_checkpoint_loosely else None,
        "model": ref.model.as_dict(),
        "dtype": ref.precision.dtype,
        "prompts": [
            prompts_fingerprint(data, rollout) for data in (config.actor.data, *evaluation_data(config).values())
        ],
        "rows": [rows.tolist() for rows in sets.values()],
        "limits": [config.actor.max_new_tokens, rollout.repetition_penalty, *sorted(stop_ids(config.actor))],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_reference_responses(inputs: RunInputs) -> None:
    """Check that a resumed run finds the responses of a reference with random weights, which no longer exist.

    Raises:
        CheckpointError: It does not.
    """
    config, dataset = inputs.config, inputs.dataset
    if not inputs.first_step or not config.loop.evaluates or not isinstance(dataset, TrainEvalPrompts):
        return
    assert config.ref is not None, "an online run has a reference"
    sets = {name: rows for name, rows in evaluation_rows(inputs, dataset).items() if len(rows)}
    checkpoint, folder = config.ref.checkpoint, Path(config.loop.output_dir, FOLDER)
    # The dry run has no fingerprints to compare weights by.
    is_random = checkpoint.random_init or (checkpoint.load_checkpoint_loosely and bool(inputs.weights))
    if is_random and sets and _read(folder, responses_fingerprint(inputs, sets)) is None:
        raise CheckpointError(
            f"{folder} has no responses of the reference for this run, and the reference has random weights, which "
            "cannot generate them again; resume in the output_dir of the earlier run with its evaluation settings, or "
            "set eval_interval=null"
        )


def _read(folder: Path, fingerprint: str) -> RolloutBatch | None:
    """Return the stored responses; None where there are none, or those of other settings, or damaged ones."""
    path = folder / METADATA
    if not path.is_file():
        return None
    try:
        if read_json_object(path).text("fingerprint") != fingerprint:
            logger.info("%s has responses of the reference with other settings; generating them again", folder)
            return None
        kept = read_rollouts(folder)
    except (CheckpointError, MalformedDataError) as error:
        logger.warning("generating the reference's responses again: %s", error)
        return None
    if kept is not None:
        logger.info("the reference's responses to %d held-out prompts read from %s", kept.num_prompts, folder)
    return kept


def _write(folder: Path, fingerprint: str, responses: RolloutBatch) -> None:
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Only with its description the file counts.
        (folder / METADATA).unlink(missing_ok=True)
        digests = {name: digest.as_json() for name, digest in write_rollouts(folder, responses).items()}
        content = {"fingerprint": fingerprint, "digests": digests}
        write_text_atomically(folder / METADATA, json.dumps(content, indent=2) + "\n")
    logger.info("the reference's responses to %d held-out prompts stored in %s", responses.num_prompts, folder)
