"""The files of a Hugging Face folder other than weights: config, generation config, tokenizer and chat template.

A checkpoint stores them in its folder `hf/`, so that it can be exported and tokenized without the original folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.weights.errors import WeightsError

ASSETS_FOLDER = "hf"
MAX_TOKENIZER_BYTES = 1 << 28
"""Limit for each of these files; tokenizer.json of the largest vocabularies takes some tens of megabytes."""
_PATTERNS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.jinja", "chat_template.json", "additional_chat_templates/*",
)  # fmt: skip


def asset_files(directory: str | Path) -> list[Path]:
    """The asset files of a Hugging Face folder, sorted by name.

    Raises:
        WeightsError: One of them is no regular file, or too large to be one of these.
    """
    root = Path(directory)
    # A name without a wildcard is tried as it is: `glob` passes over links that lead nowhere.
    found = {file for pattern in _PATTERNS for file in (root.glob(pattern) if "*" in pattern else [root / pattern])}
    files = {file for file in found if file.suffix or not file.is_dir()}
    with reraised_as(WeightsError):
        present = sorted(file for file in files if has_file(file))
    for file in present:
        if (size := file.stat().st_size) > MAX_TOKENIZER_BYTES:
            raise WeightsError(
                f"{file} has {size} bytes; a configuration or tokenizer has at most {MAX_TOKENIZER_BYTES}"
            )
    return present


def copy_assets(source: str | Path, target: str | Path) -> list[Path]:
    """Copy config, tokenizer and chat template of a Hugging Face folder, without weights and code.

    Args:
        source: A Hugging Face folder.
        target: The folder to copy to, created if absent. Each file is written under a temporary name first.

    Returns:
        The files written.

    Raises:
        WeightsError: An asset is no regular file.
    """
    written = []
    for file in asset_files(source):
        copy = Path(target) / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f".{copy.name}.part")
        shutil.copyfile(file, partial)
        written.append(partial.replace(copy))
    return written


def find_assets(checkpoint: str | Path) -> Path | None:
    """The folder of Hugging Face files in a checkpoint folder, or in the checkpoint of an iteration folder."""
    root = Path(checkpoint)
    for folder in (root / ASSETS_FOLDER, root.parent / ASSETS_FOLDER):
        if (folder / "config.json").is_file():
            return folder
    return None


def tokenizer_vocab_size(directory: str | Path) -> int | None:
    """The smallest vocabulary size that holds every id of tokenizer.json, or None if there is no such file.

    Raises:
        WeightsError: The file is damaged.
    """
    path = Path(directory) / "tokenizer.json"
    with reraised_as(WeightsError):
        if not has_file(path):
            return None
        content = read_json_object(path, MAX_TOKENIZER_BYTES)
        ids = _vocabulary_ids(content.section("model", JsonObject({}, content.location)))
        ids += [token.integer("id", minimum=0) for token in content.objects("added_tokens", ())]
    return max(ids) + 1 if ids else None


def _vocabulary_ids(model: JsonObject) -> list[int]:
    """The ids of a vocabulary: the values of an object, or the positions in a list."""
    if isinstance(model.get("vocab"), list):
        return [len(model["vocab"]) - 1] if model["vocab"] else []
    vocabulary = model.section("vocab", JsonObject({}, model.location))
    return [vocabulary.integer(token, minimum=0) for token in vocabulary]
