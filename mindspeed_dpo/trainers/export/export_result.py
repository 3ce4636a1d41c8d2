"""Writes the result of a complete run as a Hugging Face folder, or its adapters as a PEFT folder, with a model card."""

from __future__ import annotations

import shutil
from pathlib import Path

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.folder_replacement import REPLACED, replace_folder
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.export.model_card import CARD_FILE, model_card, read_last_metrics
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights


def export_folder(run: RunConfig) -> Path:
    """Return the folder of the result: `hf` in output_dir, or `adapter` with adapters."""
    return Path(run.loop.output_dir, "adapter" if run.actor.adapters.is_on else "hf")


def check_export(run: RunConfig) -> None:
    """Check that the result can be written as a Hugging Face folder, which needs the config of the initial weights.

    Raises:
        ValueError: There is none.
    """
    if not run.actor.checkpoint.export_hf or run.actor.adapters.is_on:
        return
    source = open_initial_weights(run.actor)
    assets = source.assets() if source is not None else None
    if assets is None:
        raise ValueError(
            f"export_hf=true needs a config.json in or beside load={run.actor.checkpoint.load}; set export_hf=false, "
            "and convert the result with convert_ckpt.py --hf-cfg-dir"
        )


def export_result(run: RunConfig, num_steps: int) -> Path | None:
    """Write the result of a run whose last checkpoint is complete; None if it is not to be written.

    Args:
        run: Settings of the run.
        num_steps: Steps that were done.

    Raises:
        WeightsError: The checkpoint cannot be converted, or a file cannot be written.
    """
    if not run.actor.checkpoint.export_hf:
        return None
    target = export_folder(run)
    try:
        _export(run, num_steps, target)
    except (WeightsError, OSError) as error:
        raise WeightsError(
            f"training is complete and its last checkpoint is in {run.actor.checkpoint.save}, but its result was not "
            f"written as {target}, for which convert_ckpt.py can be used: {error}"
        ) from error
    return target


def _export(run: RunConfig, num_steps: int, target: Path) -> None:
    # Complete with its card before it has its name; a resumed run replaces the result of the first.
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    convert(
        ConversionRequest(
            Path(run.actor.checkpoint.save),
            new,
            save_format="hf",
            reward_model=run.trains_reward_model,
            adapter_only=run.actor.adapters.is_on,
            overwrite=True,
        )
    )
    card = model_card(run, num_steps, read_last_metrics(Path(run.loop.output_dir)))
    with write_errors(target):
        write_text_atomically(new / CARD_FILE, card)
        replace_folder(new, target, target.with_name(f".{target.name}{REPLACED}"))
