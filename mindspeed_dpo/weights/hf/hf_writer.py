"""Writes weights as a Hugging Face folder that `transformers` can load: shards, index, config and tokenizer.

One shard is in memory at a time. The number of shards is part of their names, so they are renamed at the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.phase import Phase
from mindspeed_dpo.weights.dtype_cast import TensorCounts, cast_tensor
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_assets import copy_assets
from mindspeed_dpo.weights.hf.hf_config import as_reward_config, read_hf_config, without_mtp_layers
from mindspeed_dpo.weights.output_folder import replace_folder, staging_folder

logger = logging.getLogger(__name__)

SHARD_BYTES = 5_000_000_000


def write_hf(
    tensors: Iterable[tuple[str, Tensor]],
    assets: Path,
    target: Path,
    dtype: torch.dtype | None,
    shard_bytes: int = SHARD_BYTES,
    *,
    reward_model: bool = False,
    num_elements: int | None = None,
) -> TensorCounts:
    """Write a Hugging Face folder atomically.

    Args:
        tensors: Hugging Face names and unsharded weights of any shape.
        assets: The folder whose config, generation config and tokenizer files are copied.
        target: The folder to create or replace.
        dtype: The dtype to cast to, or None to preserve each tensor's own.
        shard_bytes: Largest size of a shard; a single larger tensor gets a shard of its own.
        reward_model: Name the classifier of the family in config.json, even if `assets` names the language model.
        num_elements: Elements of all tensors, about, for the share that is shown.
    """
    counts = TensorCounts()
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(target) as folder, live_status.phase("writing parameters", num_elements) as phase:
        shards = []
        for number, shard in enumerate(_shards(_cast_all(tensors, dtype, counts, phase), shard_bytes), 1):
            file = folder / f"{number}.safetensors"
            _save_shard(shard, file)
            shards.append((file, list(shard)))
            logger.info("wrote shard %d with %d tensors", number, len(shard))
        copy_assets(assets, folder)
        for file, _ in shards:
            # safetensors creates files that only their owner can read.
            file.chmod((folder / "config.json").stat().st_mode)
        _rename_shards(shards, counts)
        _describe_weights(folder, counts)
        if reward_model:
            _write_json(folder / "config.json", as_reward_config(read_hf_config(folder)))
        replace_folder(folder, target)
    return counts


def _save_shard(shard: dict[str, Tensor], file: Path) -> None:
    """Write a shard.

    Raises:
        WeightsError: The file cannot be written.
    """
    try:
        save_file(shard, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # safetensors raises its own error, with the system's as text.
        raise WeightsError(f"{file} cannot be written: {error}; free space there or give another --save-dir") from error


def _cast_all(
    tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, counts: TensorCounts, phase: Phase
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        result = cast_tensor(tensor, dtype, name)
        counts.add(result)
        phase.advance(result.numel())
        yield name, result


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Group tensors in order into shards of at most `shard_bytes`.

    A shard is cleared when the next one is requested, so that two are never in memory.
    """
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard.clear()
            size = 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


def _rename_shards(shards: list[tuple[Path, list[str]]], counts: TensorCounts) -> None:
    """Give the shards their final names, and write an index if there is more than one."""
    if len(shards) == 1:
        file = shards[0][0]
        file.rename(file.with_name("model.safetensors"))
        return
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(shards, 1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file.rename(file.with_name(final))
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": counts.num_bytes}, "weight_map": weight_map}
    _write_json(shards[0][0].with_name("model.safetensors.index.json"), index)


def _describe_weights(folder: Path, counts: TensorCounts) -> None:
    """Write to config.json that layers were left out, and the dtype under both keys of transformers 4 and 5."""
    config = without_mtp_layers(read_hf_config(folder))
    name = counts.most_common_dtype.removeprefix("torch.")
    config["torch_dtype"] = name
    if "dtype" in config:
        config["dtype"] = name
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
