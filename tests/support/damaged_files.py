"""Ways in which folders of weights and checkpoints come to harm, for tests of what is said then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def change_config(**values: Any) -> Callable[[Path], None]:
    """Put other values into a Hugging Face folder's config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def lose_weights(folder: Path) -> None:
    """A Hugging Face folder without its weights."""
    (folder / "model.safetensors").unlink()


def lose_second_shard(folder: Path) -> None:
    """A Hugging Face folder of two shards of which the second did not arrive."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {name: f"model-0000{1 + (i > len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    first = "model-00001-of-00002.safetensors"
    save_file({name: tensors[name] for name in names if shards[name] == first}, folder / first)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    lose_weights(folder)


def shorten(path: Path) -> None:
    """Cut off the last kilobyte of a file, or half of a smaller one."""
    content = path.read_bytes()
    path.write_bytes(content[: -min(1000, len(content) // 2)])
