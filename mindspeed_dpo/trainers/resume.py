"""Where a run begins: at step 0, or where an earlier one stopped.

`resume_from` continues a run exactly, in the same output folder. `load` of a training checkpoint without `finetune`,
the older way, continues with the parts that `no_load_optim` and `no_load_rng` leave.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.engine.checkpoint_files import (
    METADATA,
    TRACKER,
    CheckpointError,
    iteration_dir,
    latest,
    read_metadata,
)
from mindspeed_dpo.weights.hf_config import describe_differences
from mindspeed_dpo.weights.lora import adapter_settings, quick_fingerprint
from mindspeed_dpo.workers.setup.sources import open_initial_weights, sampling_of

DEFAULT_SAVE = "checkpoints"
METRICS_FILE = "metrics.jsonl"
_EARLIER = {"cp": 1, "chunks": 1}
"""What checkpoints of earlier versions do not say of their layout."""


@dataclass(frozen=True)
class ResumePoint:
    """An earlier run's checkpoint.

    Attributes:
        folder: Of the checkpoint.
        iteration: Steps it holds.
        optimizer: Whether to read the optimizer's state.
        rng: Whether to read the random state.
        metadata: What the checkpoint says about itself.
    """

    folder: Path
    iteration: int
    optimizer: bool
    rng: bool
    metadata: dict[str, Any]

    @property
    def totals(self) -> dict[str, int]:
        """What was counted before; a checkpoint of an earlier version has nothing."""
        return dict(self.metadata.get("totals", {}))


def find_resume_point(run: RunConfig, num_rows: int) -> ResumePoint | None:
    """The checkpoint a run continues from, or None if it starts at step 0.

    Args:
        run: The run.
        num_rows: Rows of its dataset.

    Raises:
        CheckpointError: There is none where one is named, or it belongs to a run that samples differently.
    """
    settings = run.actor.checkpoint
    if settings.resume_from:
        folder, optimizer, rng = _newest_below(Path(settings.resume_from)), True, True
    elif settings.load and not settings.finetune and _is_training_checkpoint(Path(settings.load)):
        folder = _newest_below(Path(settings.load))
        optimizer, rng = not settings.no_load_optim, not settings.no_load_rng
    else:
        return None
    metadata = read_metadata(folder)
    _check_adapters(run, folder, metadata.get("adapters"))
    rng = rng and {**_EARLIER, **metadata["topology"]} == _topology(run)
    _check_parts(folder, metadata, optimizer=optimizer, rng=rng)
    _check_same_sampling(run, num_rows, folder, metadata["sampling"])
    _check_same_models(run, folder, metadata)
    _check_places(run, folder, metadata)
    return ResumePoint(folder, int(metadata["iteration"]), optimizer, rng, metadata)


def check_output_is_unused(run: RunConfig) -> None:
    """See that a run which starts at step 0 does not write over what another run wrote.

    Raises:
        CheckpointError: It would.
    """
    save, metrics = Path(run.actor.checkpoint.save), Path(run.loop.output_dir) / METRICS_FILE
    if (save / TRACKER).is_file():
        raise CheckpointError(
            f"{save} holds the checkpoints of another run; continue that one with resume_from={save}, "
            "choose another output_dir or save, or move them away"
        )
    if metrics.is_file() and metrics.stat().st_size:
        raise CheckpointError(f"{metrics} is of another run; choose another output_dir, or move it away")


def with_reference_of(run: RunConfig, found: ResumePoint) -> RunConfig:
    """The run with the reference of the run it continues, where it names none of its own.

    With `load` of a training checkpoint the policy to start from is a trained one, and no reference.
    """
    if run.ref is None:
        return run
    names_its_own = run.ref.checkpoint.load != run.actor.checkpoint.load
    earlier = found.metadata["reference"]
    if names_its_own or run.actor.checkpoint.resume_from or earlier is None:
        return run
    if not Path(earlier).exists():
        raise CheckpointError(
            f"{found.folder} was trained against {earlier}, which is not there; name it with ref_model"
        )
    return replace(run, ref=replace(run.ref, checkpoint=replace(run.ref.checkpoint, load=earlier)))


def with_resumed_output_dir(run: RunConfig) -> RunConfig:
    """The run with the output folder of the one it resumes, unless it was given one of its own."""
    resume_from = run.actor.checkpoint.resume_from
    if not resume_from or "loop.output_dir" in run.origins:
        return run
    folder = _newest_below(Path(resume_from))
    # Where the checkpoint lies tells more than where it was written: folders are moved.
    beside = folder.parent.parent
    output_dir = beside if folder.parent.name == DEFAULT_SAVE else Path(read_metadata(folder)["output_dir"])
    if not output_dir.is_dir():
        return run
    checkpoints = run.actor.checkpoint
    if "actor.save" not in run.origins:
        checkpoints = replace(checkpoints, save=str(folder.parent))
    return replace(
        run, loop=replace(run.loop, output_dir=str(output_dir)), actor=replace(run.actor, checkpoint=checkpoints)
    )


def _newest_below(path: Path) -> Path:
    """The newest checkpoint of a run's output folder or of a folder of checkpoints, or the one that is given."""
    if (path / METADATA).is_file():
        read_metadata(path)
        return path
    return latest(_save_of(path))


def _save_of(path: Path) -> Path:
    """The folder of checkpoints that is meant: the path itself, or that of the run whose output folder it is."""
    if (path / TRACKER).is_file():
        return path
    if (path / DEFAULT_SAVE).is_dir():
        return path / DEFAULT_SAVE
    if (path / "config.yaml").is_file():
        written = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        return Path(written["actor_rollout_ref"]["actor_rollout"]["save"])
    return path


def _is_training_checkpoint(path: Path) -> bool:
    """Whether a path holds what this program saves, whole or not; rank files of a converter are something else."""
    folder = path
    tracker = path / TRACKER
    if tracker.is_file() and tracker.read_text().strip().isdigit():
        folder = iteration_dir(path, int(tracker.read_text()))
    return (folder / METADATA).is_file() or any(folder.glob("*.distcp"))


def _check_same_sampling(run: RunConfig, num_rows: int, folder: Path, saved: dict[str, Any]) -> None:
    now = sampling_of(run, num_rows)
    changed = [f"{key} was {saved[key]}, is {value}" for key, value in now.items() if saved[key] != value]
    if changed:
        raise CheckpointError(
            f"{folder} cannot be continued, its data order would change: {'; '.join(changed)}. "
            "Restore these values, or start anew from its weights with load and finetune=true"
        )


def _check_parts(folder: Path, metadata: dict[str, Any], **wanted: bool) -> None:
    lacking = [part for part, is_wanted in wanted.items() if is_wanted and not metadata[part]]
    if lacking:
        raise CheckpointError(
            f"{folder} was saved without {' and '.join(lacking)} state, so it cannot be continued exactly; give it as "
            "load with no_load_optim=true and no_load_rng=true, or with finetune=true to start anew from its weights"
        )


def _check_same_models(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    """The model must be the one that was trained, and a resumed run must keep its reference."""
    changed = describe_differences(run.actor.model, ModelConfig.from_dict(metadata["model"]))
    if run.actor.checkpoint.resume_from and run.ref is not None:
        now = os.path.abspath(run.ref.checkpoint.load) if run.ref.checkpoint.load else None
        changed += [f"the reference was {metadata['reference']}, is {now}"] if now != metadata["reference"] else []
        before, stages = {**_EARLIER, **metadata["topology"]}, _topology(run)
        if now is None and (before["pp"], before["chunks"]) != (stages["pp"], stages["chunks"]):
            changed.append("a random reference is another one with other pipeline stages or virtual ones")
    if changed:
        raise CheckpointError(f"{folder} cannot be continued: {'; '.join(changed)}")


def _check_adapters(run: RunConfig, folder: Path, saved: dict[str, Any] | None) -> None:
    """A run with adapters continues one with the same adapters on the same weights, and no other."""
    settings, start = run.actor.adapters, "start anew from its weights with load and finetune=true"
    if saved is None:
        if settings.is_on:
            raise CheckpointError(f"{folder} holds all weights and no adapters; {start}, or remove lora_target_modules")
        return
    trained = adapter_settings(saved["settings"])
    if not run.actor.checkpoint.resume_from:
        raise CheckpointError(
            f"{folder} holds adapters only; continue its run with resume_from and load={saved['base']}, or {start}, "
            "which merges them"
        )
    if not (settings.is_on and settings.is_compatible_with(trained)):
        raise CheckpointError(
            f"{folder} holds adapters of other settings; continue it with "
            f"lora_target_modules={format_value(trained.modules)}, lora_r={trained.lora_r}, "
            f"lora_alpha={trained.lora_alpha:g} and use_rslora={format_value(trained.use_rslora)}"
        )
    source = open_initial_weights(run.actor)
    if source is not None and quick_fingerprint(source) != saved["base_mark"]:
        raise CheckpointError(f"{folder} was trained on the weights in {saved['base']}; {source.path} holds others")


def _check_places(run: RunConfig, folder: Path, metadata: dict[str, Any]) -> None:
    save, output_dir = Path(run.actor.checkpoint.save), Path(run.loop.output_dir)
    if (save / TRACKER).is_file() and save.resolve() != folder.parent.resolve():
        raise CheckpointError(
            f"{save} holds the checkpoints of another run than {folder}; choose another output_dir or save"
        )
    own = output_dir.resolve() in (Path(metadata["output_dir"]).resolve(), folder.parent.parent.resolve())
    if (output_dir / METRICS_FILE).is_file() and not own:
        raise CheckpointError(f"{output_dir} holds another run than that of {folder}; choose another output_dir")


def _topology(run: RunConfig) -> dict[str, int]:
    parallel = run.actor.parallel
    return {
        "tp": parallel.tensor_model_parallel_size,
        "pp": parallel.pipeline_model_parallel_size,
        "dp": run.data_parallel_size("actor"),
        "cp": parallel.context_parallel_size,
        "chunks": run.actor.num_chunks,
    }
