"""The last line of a run: how it ended and where its outputs are."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.trainers.output_checks import output_folders


def last_line(config: RunConfig, num_done: int, is_complete: bool, exported: Path | None = None) -> str:
    """Return the last line of a run: how it ended and where its outputs are; `exported` is its folder for others."""
    names = {"save": "checkpoints", "reference_cache_dir": "reference log-probabilities"}
    output_dir = Path(config.loop.output_dir)
    elsewhere = {
        key: folder
        for key, folder in output_folders(config).items()
        if not real_path(folder).is_relative_to(real_path(output_dir))
    }
    results = [f"the {'adapter' if config.actor.adapters.is_on else 'model'} is in {exported}"] if exported else []
    places = [f"{names.get(key, key.removesuffix('_save_dir'))} in {folder}" for key, folder in elsewhere.items()]
    outputs = f"{'all other' if places else 'all'} outputs of this run are in {output_dir}"
    state = "done" if is_complete else f"interrupted after step {num_done}; resume with resume_from={output_dir}"
    first = [f"{state}: {outputs}"] if is_complete else [state, outputs]
    return "; ".join([*first, *places, *results])
