"""What the tests of checkpoints let a pool of processes do: save a model, and resume from it, perhaps elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.engine.checkpoints import save_and_load
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError, iteration_dir
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.storage.digesting_file import DigestingFile
from tests.unit.engine.engine_jobs import MODEL, Setup, build, train


def save(
    engine: TrainingEngine, folder: Path, iteration: int, parts: save_and_load.CheckpointParts | None = None
) -> Path:
    """Write a checkpoint."""
    metadata = {"iteration": iteration, "model": MODEL.as_dict()}
    what = (folder, engine, find_accelerator("cpu"), parts or save_and_load.CheckpointParts(), metadata)
    return save_and_load.complete(save_and_load.start_save(*what))


def load(engine: TrainingEngine, folder: Path, parts: save_and_load.CheckpointParts | None = None) -> None:
    """Read a checkpoint."""
    save_and_load.load(folder, engine, find_accelerator("cpu"), parts or save_and_load.CheckpointParts(rng=False))


def norms_and_weights(setup: Setup, steps: int, folder: Path) -> list[float]:
    """Train and save; the norms of all steps."""
    engine = build(setup)
    norms = train(engine, setup, steps)
    save(engine, folder, steps)
    return norms


def norms_going_on(setup: Setup, folder: Path, target: Path) -> list[float]:
    """Gradient norms of three steps from the checkpoint of step 1, saved as step 4."""
    engine = build(setup, seed=99)
    load(engine, iteration_dir(folder, 1))
    norms = train(engine, setup, 3)
    save(engine, target, 4)
    return norms


def resave(setup: Setup, folder: Path, iteration: int, target: Path) -> list[float]:
    """Read a checkpoint into another model and write it again; gives the step counts that the optimizer then has."""
    engine = build(setup, seed=99)
    load(engine, iteration_dir(folder, iteration))
    save(engine, target, iteration)
    return steps_of_parameters(engine)


def go_on(setup: Setup, folder: Path, iteration: int, steps: int, target: Path) -> list[float]:
    """Read a checkpoint into another model, train some steps more and save; gives the step counts."""
    engine = build(setup, seed=99)
    load(engine, iteration_dir(folder, iteration), save_and_load.CheckpointParts())
    train(engine, setup, steps)
    save(engine, target, iteration + steps)
    return steps_of_parameters(engine)


def steps_of_parameters(engine: TrainingEngine) -> list[float]:
    """How many updates the optimizer counts, for each parameter that this rank updates."""
    return [float(state["step"]) for inner in inner_optimizers(engine) for state in inner.state.values()]


def inner_optimizers(engine: TrainingEngine) -> Iterator[Any]:
    """torch's optimizers inside megatron-core's."""
    for one in getattr(engine.optimizer, "chained_optimizers", [engine.optimizer]):
        if not one.is_stub_optimizer:
            yield one.optimizer


def missing_part(folder: Path, saved: save_and_load.CheckpointParts, wanted: save_and_load.CheckpointParts) -> str:
    """The sentence for a checkpoint that lacks a part."""
    engine = build(Setup())
    path = save(engine, folder, 1, saved)
    try:
        load(engine, path, wanted)
    except ValueError as error:
        return str(error)
    return "no error"


def refusal(folder: Path) -> str:
    """The sentence for a checkpoint that cannot be read."""
    try:
        load(build(Setup()), folder, save_and_load.CheckpointParts())
    except ValueError as error:
        return str(error)
    return "no error"


def error_of_load(setup: Setup, folder: Path, iteration: int) -> str:
    """What a load says that fails."""
    try:
        load(build(setup), iteration_dir(folder, iteration))
    except CheckpointError as error:
        return str(error)
    return "no error"


def error_of_save(setup: Setup, folder: Path, failing: str, after: int) -> tuple[str, list[str]]:
    """What a save says of which one file takes no more than `after` bytes; and what then lies in the folder.

    A save before it and one after it succeed.
    """
    engine, write = build(setup), DigestingFile.write
    save(engine, folder, 1)

    def full(self: DigestingFile, content: Any) -> int:
        view = memoryview(content).cast("B")
        if fnmatch(self.path.name, failing) and self.tell() + len(view) > after:
            self.error = self.error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    said = "no error"
    DigestingFile.write = full  # type: ignore[method-assign]
    try:
        save(engine, folder, 2)
    except CheckpointError as error:
        said = str(error)
    finally:
        DigestingFile.write = write  # type: ignore[method-assign]
    dist.barrier()
    left = sorted(path.name for path in folder.iterdir())
    dist.barrier()
    save(engine, folder, 3)
    return said, left


def random_numbers(folder: Path) -> tuple[Tensor, Tensor]:
    """What is drawn after a save, and after other draws and a load."""
    engine = build(Setup())
    path = save(engine, folder, 1)
    first = torch.rand(4)
    torch.rand(10)
    load(engine, path, save_and_load.CheckpointParts())
    return first, torch.rand(4)


def weights_alone(folder: Path, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of a saved model and of another one that took its weights only and made a step of length zero."""
    setup = Setup(bf16=True, weight_decay=0.0)
    engine = build(setup)
    train(engine, setup, steps)
    path = save(engine, folder, steps)
    saved = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    other = build(setup, seed=99)
    load(other, path, save_and_load.CheckpointParts(optimizer=False, rng=False))
    train(other, setup, 1, learning_rate=0.0)
    return saved, {name: parameter.detach() for name, parameter in other.model.named_parameters()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every full tensor of a checkpoint by its global name; needs no process group."""
    reader = dcp.FileSystemReader(folder)
    described = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in described.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state
