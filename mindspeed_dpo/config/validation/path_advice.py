"""Advice about a path that does not exist or holds something else: a name on the hub, data of another stage."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from mindspeed_dpo.storage.nearest_path import nearest_path_advice

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".json", ".jsonl", ".yaml", ".safetensors", ".bin", ".pt")
_PACKED = "_packed"


def missing_weights_advice(path: str) -> str:
    """Return the end of a sentence about weights that do not exist: what is near, or how to download a hub's model."""
    nearest = nearest_path_advice(path)
    if nearest or not _HUB_NAME.fullmatch(path) or PurePath(path).suffix in _FILES:
        return nearest
    folder = PurePath(path).name
    return f"; if it is a model of the Hugging Face hub, download it: hf download {path} --local-dir {folder}"


def missing_data_advice(path: str) -> str:
    """Return the end of a sentence about raw data that does not exist: what is near, or how to download a hub's."""
    nearest = nearest_path_advice(path)
    if nearest or not _HUB_NAME.fullmatch(path) or "." in PurePath(path).name:
        return nearest
    command = f"hf download --repo-type dataset {path} --local-dir {PurePath(path).name}"
    return f"; if it is a data set of the Hugging Face hub, download it: {command}"


def data_path_advice(path: str, is_online: bool, exists: Callable[[str], bool]) -> str:
    """Return what to change where token files do not exist under a prefix; empty where nothing is known.

    Args:
        path: The prefix.
        is_online: Whether the run needs prompts; otherwise it needs pairs.
        exists: Returns whether a path exists.
    """
    name = PurePath(path).name
    if _PACKED in name:
        prefix = path[: path.rindex(_PACKED)]
        return f"; data_path is the prefix before {_PACKED}: {prefix}"
    if exists(path):
        return (
            "; it is a file or folder of raw data: convert it with preprocess_data.py, or train on it directly with "
            "`mindspeed-dpo train model=FOLDER data=FILE`"
        )
    has_pairs, has_prompts = (
        exists(f"{path}{_PACKED}_{column}_document.idx") for column in ("chosen_input_ids", "input_ids")
    )
    if has_prompts and not has_pairs and not is_online:
        return "; it holds prompts, which stage ray_online_dpo trains on; stages dpo and rm need pairs"
    if has_pairs and not has_prompts and is_online:
        return "; it holds pairs, which stages dpo and rm train on; ray_online_dpo needs prompts"
    return ""
