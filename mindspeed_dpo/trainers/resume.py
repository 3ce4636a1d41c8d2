"""Resuming: finds the checkpoint that a run continues from, and checks that it fits.

`resume_from` continues a run exactly, in the same output folder. `load` of a training checkpoint without `finetune`, as
in Megatron-LM, continues with the parts that `no_load_optim` and `no_load_rng` leave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.engine.checkpoint_files import (
    LATEST_WHOLE,
    METADATA,
    TRACKER,
    CheckpointError,
    file_digests,
    iteration_dir,
    latest,
    latest_whole,
    read_metadata,
    read_tracker,
    verify_small_files,
    way_out,
)
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.yaml_text import read_yaml_mapping
from mindspeed_dpo.weights.hf_config import describe_differences
from mindspeed_dpo.weights.lora import adapter_settings, quick_fingerprint
from mindspeed_dpo.workers.setup.datasets import sampling_of
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights

logger = logging.getLogger(__name__)

DEFAULT_SAVE = "checkpoints"
METRICS_FILE = "metrics.jsonl"
_DEFAULT_LAYOUT = {"cp": 1, "chunks": 1}
"""Layout of checkpoints from versions that did not record these sizes."""


_REQUIRED_VALUES = ("optimizer", "rng", "topology", "sampling", "model", "output_dir")
_REQUIRED = (*_REQUIRED_VALUES, "reference")


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from.

    Example:
        ResumePoint(Path("out/checkpoints/iter_0000040"), 40, optimizer=True, rng=True, metadata={"iteration": 40})

    Attributes:
        folder: Folder of the checkpoint.
        iteration: Steps completed.
        optimizer: Whether to load the optimizer's state.
        rng: Whether to load the random state.
        metadata: Metadata of the checkpoint.
    """

    folder: Path
    iteration: int
    optimizer: bool
    rng: bool
    metadata: dict[str, Any]

    @property
    def totals(self) -> dict[str, int]:
        """Counters of the run so far; empty in checkpoints of earlier versions."""
        return dict(self.metadata.get("totals", {}))


def find_resume_point(run: RunConfig, num_rows: int) -> ResumePoint | None:
    """Find the checkpoint that a run resumes from; None if it starts at step 0.

    Args:
        run: Settings of the run.
        num_rows: Rows of its dataset.

    Raises:
        CheckpointError: The configured path has no checkpoint, or the checkpoint does not fit the run.
    """
    settings, is_whole = run.actor.checkpoint, run.actor.checkpoint.resume == LATEST_WHOLE
    if settings.resume_from:
        folder, optimizer, rng = _newest_below(Path(settings.resume_from), is_whole), True, True
    elif settings.load and not settings.finetune and _is_training_checkpoint(Path(settings.load)):
        folder = _newest_below(Path(settings.load), is_whole)
        optimizer, rng = not settings.no_load_optim, not settings.no_load_rng
    else:
        return None
    metadata = read_metadata(folder)
    _check_files(folder, metadata)
    _check_keys(folder, metadata)
    _check_adapters(run, folder, metadata)
    rng = rng and {**_DEFAULT_LAYOUT, **metadata["topology"]} == topology_of(run)
    _check_parts(folder, metadata, optimizer=optimizer, rng=rng)
    _check_same_sampling(run, num_rows, folder, metadata["sampling"])
    _check_same_models(run, folder, metadata)
    _check_places(run, folder, metadata)
    return ResumePoint(folder, int(metadata["iteration"]), optimizer, rng, metadata)


def with_own_checkpoints(run: RunConfig) -> RunConfig:
    """Set `resume_from` to the run's own `save` with `resume: latest_whole`, if that has checkpoints."""
    settings = run.actor.checkpoint
    if settings.resume != LATEST_WHOLE or settings.resume_from or not any(Path(settings.save).glob("iter_*")):
        return run
    checkpoint = replace(settings, resume_from=settings.save)
    return replace(run, actor=replace(run.actor, checkpoint=checkpoint))


def check_output_is_unused(run: RunConfig) -> None:
    """Check that a run that starts at step 0 does not overwrite another run's outputs.

    Raises:
        CheckpointError: Its folders contain outputs of another run.
    """
    save, metrics = Path(run.actor.checkpoint.save), Path(run.loop.output_dir) / METRICS_FILE
    if (save / TRACKER).is_file():
        raise CheckpointError(
            f"{save} contains the checkpoints of another run; resume that one with resume_from={save}, "
            "choose another output_dir or save, or move them away"
        )
    if metrics.is_file() and metrics.stat().st_size:
        raise CheckpointError(f"{metrics} belongs to another run; choose another output_dir, or move it away")


def with_reference_of(run: RunConfig, resume_point: ResumePoint) -> RunConfig:
    """Set the reference to that of the resumed run, unless another one is configured.

    With `load` of a training checkpoint the initial policy is a trained one, which is not the reference.

    Raises:
        CheckpointError: That reference no longer exists, or has other weights now.
    """
    if run.ref is None:
        return run
    is_configured = run.ref.checkpoint.load != run.actor.checkpoint.load
    earlier = resume_point.metadata["reference"]
    if is_configured or run.actor.checkpoint.resume_from or earlier is None:
        return run
    if not Path(earlier).exists():
        raise CheckpointError(
            f"{resume_point.folder} was trained with the reference {earlier}, which does not exist; set ref_model"
        )
    run = replace(run, ref=replace(run.ref, checkpoint=replace(run.ref.checkpoint, load=earlier)))
    changed = _changed_reference(run, resume_point.metadata)
    if changed:
        raise CheckpointError(f"{resume_point.folder} cannot be resumed: {changed}; set ref_model")
    return run


def weights_identity(run: RunConfig) -> dict[str, str | None]:
    """Return fingerprints of the contents of the initial and the reference weights; None for random or no weights."""
    return {"initial": _fingerprint(run.actor), "reference": _fingerprint(run.ref)}


def _fingerprint(role: RoleConfig | None) -> str | None:
    source = open_initial_weights(role) if role is not None else None
    return None if source is None else source.fingerprint()


def with_resumed_output_dir(run: RunConfig) -> RunConfig:
    """Set the output folder to that of the resumed run, unless another one is configured."""
    resume_from = run.actor.checkpoint.resume_from
    if not resume_from or "loop.output_dir" in run.origins:
        return run
    save, recorded = _save_and_output_dir(Path(resume_from), run.actor.checkpoint.resume == LATEST_WHOLE)
    # The checkpoint's current location counts, not the recorded one: folders may have been moved.
    output_dir = save.parent if save.name == DEFAULT_SAVE else recorded
    if output_dir is None or not output_dir.is_dir():
        return run
    checkpoints = run.actor.checkpoint
    if "actor.save" not in run.origins:
        checkpoints = replace(checkpoints, save=str(save))
    return replace(
        run, loop=replace(run.loop, output_dir=str(output_dir)), actor=replace(run.actor, checkpoint=checkpoints)
    )


def _newest_below(path: Path, is_whole: bool = False) -> Path:
    """Return the newest checkpoint of an output folder or a folder of checkpoints, or the given checkpoint.

    Args:
        path: One of these.
        is_whole: Verify all files, and return an earlier one where the newest is damaged.
    """
    if is_whole:
        save, last = _iteration_of(path)
        return latest_whole(save, last)
    if (path / METADATA).is_file():
        read_metadata(path)
        return path
    return latest(_save_of(path))


def _iteration_of(path: Path) -> tuple[Path, int | None]:
    """Return the folder of checkpoints of a path, and the iteration if the path is that of one checkpoint."""
    number = path.name.removeprefix("iter_")
    if path.name.startswith("iter_") and number.isdigit():
        return path.parent, int(number)
    return _save_of(path), None


def _save_and_output_dir(path: Path, is_whole: bool) -> tuple[Path, Path | None]:
    """Return the folder of checkpoints of a path, and the output folder that one of them names."""
    if not is_whole:
        folder = _newest_below(path)
        return folder.parent, _recorded_output_dir(folder)
    save, _ = _iteration_of(path)
    for folder in sorted(save.glob("iter_*"), reverse=True):
        try:
            return save, _recorded_output_dir(folder)
        except CheckpointError:
            continue  # reported when the checkpoint is chosen
    return save, None


def _recorded_output_dir(folder: Path) -> Path | None:
    recorded = read_metadata(folder).get("output_dir")
    return Path(recorded) if recorded else None


def _save_of(path: Path) -> Path:
    """Return the folder of checkpoints: the path itself, or that of the run whose output folder it is."""
    if (path / TRACKER).is_file():
        return path
    if (path / DEFAULT_SAVE).is_dir():
        return path / DEFAULT_SAVE
    if (path / "config.yaml").is_file():
        with reraised_as(CheckpointError, "give the folder of its checkpoints"):
            written: Any = read_yaml_mapping(path / "config.yaml")
        for section in ("actor_rollout_ref", "actor_rollout"):
            written = written.get(section)
            if not isinstance(written, dict):
                raise CheckpointError(f"{path / 'config.yaml'} has no {section}; give the folder of its checkpoints")
        if not isinstance(written.get("save"), str):
            raise CheckpointError(f"{path / 'config.yaml'} has no save; give the folder of its checkpoints")
        return Path(written["save"])
    return path


def _is_training_checkpoint(path: Path) -> bool:
    """Return whether a path has a training checkpoint, complete or not, rather than rank files of a converter."""
    folder = path
    iteration = read_tracker(path / TRACKER) if (path / TRACKER).is_file() else None
    if iteration is not None:
        folder = iteration_dir(path, iteration)
    return (folder / METADATA).is_file() or any(folder.glob("*.distcp"))


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
        raise CheckpointError(f"{folder / METADATA} lacks {', '.join(missing)}; {way_out(folder)}")


def _check_same_sampling(run: RunConfig, num_rows: int, folder: Path, saved: dict[str, Any]) -> None:
    now = sampling_of(run, num_rows)
    changed = [f"{key} was {saved.get(key)}, is {value}" for key, value in now.items() if saved.get(key) != value]
    if changed:
        raise CheckpointError(
            f"{folder} cannot be resumed, as its data order would change: {'; '.join(changed)}. "
            "Restore these values, or start a new run from its weights with load and finetune=true"
        )


def _check_parts(folder: Path, metadata: dict[str, Any], **wanted: bool) -> None:
    missing = [part for part, is_wanted in wanted.items() if is_wanted and not metadata[part]]
    if missing:
        raise CheckpointError(
            f"{folder} was saved without {' and '.join(missing)} state, so it cannot be resumed exactly; set it as "
            "load with no_load_optim=true and no_load_rng=true, or with finetune=true to start a run from its weights"
        )


def _check_same_models(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    """Check that the model is the one that was trained, and that a resumed run keeps its reference."""
    changed = describe_differences(run.actor.model, ModelConfig.from_dict(metadata["model"]))
    if run.actor.checkpoint.resume_from and run.ref is not None:
        now, different = run.ref.checkpoint.load, _changed_reference(run, metadata)
        changed += [different] if different else []
        before, stages = {**_DEFAULT_LAYOUT, **metadata["topology"]}, topology_of(run)
        if now is None and (before["pp"], before["chunks"]) != (stages["pp"], stages["chunks"]):
            changed.append("a random reference differs with other pipeline or virtual stages")
    if changed:
        raise CheckpointError(f"{folder} cannot be resumed: {'; '.join(changed)}")


def _changed_reference(run: RunConfig, metadata: Mapping[str, Any]) -> str | None:
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
    if (save / TRACKER).is_file() and save.resolve() != folder.parent.resolve():
        raise CheckpointError(
            f"{save} contains the checkpoints of another run than {folder}; choose another output_dir or save"
        )
    is_own = output_dir.resolve() in (Path(metadata["output_dir"]).resolve(), folder.parent.parent.resolve())
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
