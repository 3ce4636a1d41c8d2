"""Write weights as a Hugging Face folder that `transformers` loads at once: shards, index, config and tokenizer.

One shard is in memory at a time. The number of shards is known only at the end, so they are named then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mindspeed_dpo.weights.assets import copy_assets
from mindspeed_dpo.weights.atomic_write import put_in_place, unfinished_folder
from mindspeed_dpo.weights.dtype_cast import Tally, cast
from mindspeed_dpo.weights.hf_config import as_reward_config, read_hf_config

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
) -> Tally:
    """Write the folder under another name and move it in place.

    Args:
        tensors: Hugging Face names and whole tensors.
        assets: The folder whose config, generation config and tokenizer files are carried over.
        target: The folder to make, or to replace.
        dtype: Type to cast to, or None to keep each tensor's own.
        shard_bytes: Largest shard; a single larger tensor has one of its own.
        reward_model: Have config.json name the classifier of the family, also where it names the language model.
    """
    tally = Tally()
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(target) as folder:
        shards = []
        for number, shard in enumerate(_shards(_cast_all(tensors, dtype, tally), shard_bytes), 1):
            place = folder / f"{number}.safetensors"
            save_file(shard, place, metadata={"format": "pt"})
            shards.append((place, list(shard)))
            logger.info("wrote shard %d: %d tensors", number, len(shard))
        copy_assets(assets, folder)
        for place, _ in shards:
            # safetensors makes files that only their owner can read.
            place.chmod((folder / "config.json").stat().st_mode)
        _name_shards(shards, tally)
        _state_dtype(folder, tally)
        if reward_model:
            _write_json(folder / "config.json", as_reward_config(read_hf_config(folder)))
        put_in_place(folder, target)
    return tally


def _cast_all(
    tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, tally: Tally
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        result = cast(tensor, dtype, name)
        tally.add(result)
        yield name, result


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Group tensors, in order, into shards of at most `shard_bytes`.

    A shard is emptied when the next one is asked for, so that two are never in memory.
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


def _name_shards(shards: list[tuple[Path, list[str]]], tally: Tally) -> None:
    """Give the shards their final names; several need an index."""
    if len(shards) == 1:
        place = shards[0][0]
        place.rename(place.with_name("model.safetensors"))
        return
    weight_map: dict[str, str] = {}
    for number, (place, names) in enumerate(shards, 1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        place.rename(place.with_name(final))
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": tally.num_bytes}, "weight_map": weight_map}
    _write_json(shards[0][0].with_name("model.safetensors.index.json"), index)


def _state_dtype(folder: Path, tally: Tally) -> None:
    """Say in config.json which data type was written; both spellings, as transformers 4 and 5 differ."""
    config = read_hf_config(folder)
    name = tally.dtype.removeprefix("torch.")
    config["torch_dtype"] = name
    if "dtype" in config:
        config["dtype"] = name
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
