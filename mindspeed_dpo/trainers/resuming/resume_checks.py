"""Checks that a checkpoint fits the run that resumes from it: data order, model, method, reference, folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import file_digests, verify_small_files
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    METADATA,
    TRACKER,
    CheckpointError,
    recovery_advice,
)
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.weights.hf.hf_config import describe_differences
from mindspeed_dpo.weights.lora import adapter_settings, quick_fingerprint
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights

logger = logging.getLogger(__name__)

_DEFAULT_LAYOUT = {"cp": 1, "chunks": 1}
"""Layout of checkpoints from versions that did not record these sizes."""
_REQUIRED_VALUES = ("optimizer", "rng", "topology", "sampling", "model", "output_dir")
_REQUIRED = (*_REQUIRED_VALUES, "reference")


def weights_identity(run: RunConfig) -> dict[str, str | None]:
    """Return fingerprints of the contents of the initial and the reference weights; None for random or no weights."""
    return {"initial": _fingerprint(run.actor), "reference": _fingerprint(run.ref)}


def _fingerprint(role: RoleConfig | None) -> str | None:
    source = open_initial_weights(role) if role is not None else None
    return None if source is None else source.fingerprint()


def check_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Check a checkpoint's small files, and that its metadata has every key that resuming needs.

    Raises:
        CheckpointError: A file is damaged, or a key is missing.
    """
    _check_files(folder, metadata)
    _check_keys(folder, metadata)


def check_fit(
    run: RunConfig, num_rows: int, folder: Path, metadata: dict[str, Any], *, optimizer: bool, rng: bool
) -> None:
    """Check that a run continues with data order, model, online method, reference and adapters of a checkpoint.

    Args:
        run: Settings of the run.
        num_rows: Rows of its dataset.
        folder: Folder of the checkpoint.
        metadata: Its metadata.
        optimizer: Whether the optimizer's state will be loaded.
        rng: Whether the random state will be loaded.

    Raises:
        CheckpointError: One of them differs, a part is missing, or an output folder belongs to another run.
    """
    _check_adapters(run, folder, metadata)
    _check_parts(folder, metadata, optimizer=optimizer, rng=rng)
    _check_same_sampling(run, num_rows, folder, metadata["sampling"])
    _check_same_models(run, folder, metadata)
    _check_same_method(run, folder, metadata)
    _check_places(run, folder, metadata)


def has_same_layout(run: RunConfig, metadata: Mapping[str, Any]) -> bool:
    """Return whether a run has the parallel layout of a checkpoint, which its random state belongs to."""
    return {**_DEFAULT_LAYOUT, **metadata["topology"]} == topology_of(run)


def _check_files(folder: Path, metadata: dict[str, Any]) -> None:
    """Check the small files; those of the tensors are checked while they are loaded."""
    if not file_digests(metadata):
        logger.info("%s is of an earlier version without digests; only the sizes of its files are checked", folder)
    verify_small_files(folder, metadata)


def _check_keys(folder: Path, metadata: dict[str, Any]) -> None:
    """Check that the metadata has every key that resuming needs; their types are checked where it is read."""
    missing = [key for key in _REQUIRED if key not in metadata]
    missing += [key for key in _REQUIRED_VALUES if metadata.get(key) is None and key not in missing]
    if missing:
        raise CheckpointError(f"{folder / METADATA} lacks {', '.join(missing)}; {recovery_advice(folder)}")


def _check_same_sampling(run: RunConfig, num_rows: int, folder: Path, saved: dict[str, Any]) -> None:
    now = sampling_of(run, num_rows)
    changed = [f"{key} was {saved.get(key)}, is {value}" for key, value in now.items() if saved.get(key) != value]
    if changed:
        raise CheckpointError(
            f"{folder} cannot be resumed, as its data order would change: {'; '.join(changed)}. "
            "Restore these values, or start a new run from its weights with load and finetune=true"
        )


def _check_parts(folder: Path, metadata: dict[str, Any], **required: bool) -> None:
    missing = [part for part, is_required in required.items() if is_required and not metadata[part]]
    if missing:
        raise CheckpointError(
            f"{folder} was saved without {' and '.join(missing)} state, so it cannot be resumed exactly; set it as "
            "load with no_load_optim=true and no_load_rng=true, or with finetune=true to start a run from its weights"
        )


def _check_same_models(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    """Check that the model is the one that was trained, and that a resumed run keeps its reference."""
    is_reward_model = bool(metadata.get("score_head"))
    if is_reward_model != run.trains_reward_model:
        raise CheckpointError(
            f"{folder} is of a run that trained a {'reward' if is_reward_model else 'language'} model; "
            + (
                "set it as load of section reward to score with it"
                if is_reward_model
                else "set it as load with finetune=true to train a reward model from its weights"
            )
        )
    changed = describe_differences(
        run.actor.model, ModelConfig.from_dict(metadata["model"]), reward=run.trains_reward_model
    )
    if run.actor.checkpoint.resume_from and run.ref is not None:
        now, different = run.ref.checkpoint.load, changed_reference(run, metadata)
        changed += [different] if different else []
        before, stages = {**_DEFAULT_LAYOUT, **metadata["topology"]}, topology_of(run)
        if now is None and (before["pp"], before["chunks"]) != (stages["pp"], stages["chunks"]):
            changed.append("a random reference differs with other pipeline or virtual stages")
    if changed:
        raise CheckpointError(f"{folder} cannot be resumed: {'; '.join(changed)}")


def _check_same_method(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    """Check that online training keeps its method; earlier versions did not record it, and offline there is none."""
    before, now = metadata.get("online_method"), run.actor.pairing.online_method
    if run.is_online and before not in (None, now):
        raise CheckpointError(
            f"{folder} cannot be resumed: online_method was {before}, is {now}, which trains on other responses with "
            f"another loss. Set online_method={before}, or start a new run from its weights with load and finetune=true"
        )


def changed_reference(run: RunConfig, metadata: Mapping[str, Any]) -> str | None:
    """Return how the reference differs from the recorded one, by content, or by path in earlier versions."""
    assert run.ref is not None
    load = run.ref.checkpoint.load
    path = os.path.abspath(load) if load else None
    if "weights" not in metadata:
        if path == metadata["reference"]:
            logger.info(
                "the checkpoint is of an earlier version: the reference is compared by its path, not its content"
            )
            return None
        return f"the reference was {metadata['reference']}, is {path}"
    before, now = metadata["weights"]["reference"], _fingerprint(run.ref)
    if before == now:
        return None
    return f"the reference was {metadata['reference']} with the fingerprint {before}, is {path} with {now}"


def _check_adapters(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    """Check that a run with adapters resumes one with the same adapters on the same base weights."""
    saved, initial = metadata.get("adapters"), metadata.get("weights", {}).get("initial")
    settings, start = run.actor.adapters, "start a new run from its weights with load and finetune=true"
    if saved is None:
        if settings.is_on:
            raise CheckpointError(
                f"{folder} contains all weights and no adapters; {start}, or remove lora_target_modules"
            )
        return
    trained = adapter_settings(saved["settings"])
    if not run.actor.checkpoint.resume_from:
        raise CheckpointError(
            f"{folder} contains adapters only; resume its run with resume_from and load={saved['base']}, or {start}, "
            "which merges them"
        )
    if not (settings.is_on and settings.is_compatible_with(trained)):
        of_experts = trained.lora_target_parameters
        parameters = f"lora_target_parameters={format_value(of_experts)}, " if of_experts else ""
        raise CheckpointError(
            f"{folder} contains adapters with other settings; resume it with "
            f"lora_target_modules={format_value(trained.modules)}, {parameters}lora_r={trained.lora_r}, "
            f"lora_alpha={trained.lora_alpha:g} and use_rslora={format_value(trained.use_rslora)}"
        )
    source = open_initial_weights(run.actor)
    if source is None:
        return
    is_same = source.fingerprint() == initial if initial else quick_fingerprint(source) == saved["base_mark"]
    if not is_same:
        raise CheckpointError(f"{folder} was trained on the weights in {saved['base']}; those in {source.path} differ")


def _check_places(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    save, output_dir = Path(run.actor.checkpoint.save), Path(run.loop.output_dir)
    if (save / TRACKER).is_file() and real_path(save) != real_path(folder.parent):
        raise CheckpointError(
            f"{save} contains the checkpoints of another run than {folder}; choose another output_dir or save"
        )
    is_own = real_path(output_dir) in (real_path(metadata["output_dir"]), real_path(folder.parent.parent))
    if (output_dir / METRICS_FILE).is_file() and not is_own:
        raise CheckpointError(
            f"{output_dir} contains the outputs of another run than {folder}; choose another output_dir"
        )


def topology_of(run: RunConfig) -> dict[str, int]:
    """Return the sizes of a run's layout, as checkpoints record them."""
    parallel = run.actor.parallel
    return {
        "tp": parallel.tensor_model_parallel_size,
        "pp": parallel.pipeline_model_parallel_size,
        "dp": run.data_parallel_size("actor"),
        "cp": parallel.context_parallel_size,
        "chunks": run.actor.num_chunks,
    }
