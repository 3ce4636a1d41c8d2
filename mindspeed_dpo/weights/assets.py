"""The files of a Hugging Face folder that are not weights: config, generation config, tokenizer, chat template.

A checkpoint carries them in its folder `hf/`, so that it can be exported and its tokenizer found without the original.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

FOLDER = "hf"
_PATTERNS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.jinja", "chat_template.json", "additional_chat_templates/*",
)  # fmt: skip


def asset_files(directory: str | Path) -> list[Path]:
    """The files to carry along, in order of their names."""
    root = Path(directory)
    found = {file for pattern in _PATTERNS for file in root.glob(pattern)}
    return sorted(file for file in found if file.is_file())


def copy_assets(source: str | Path, target: str | Path) -> list[Path]:
    """Copy config, tokenizer and chat template of a Hugging Face folder; weights and code stay behind.

    Args:
        source: A Hugging Face folder.
        target: Made if absent. Each file is written under another name first.

    Returns:
        The files written.
    """
    written = []
    for file in asset_files(source):
        place = Path(target) / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.part")
        shutil.copyfile(file, partial)
        written.append(partial.replace(place))
    return written


def find_assets(checkpoint: str | Path) -> Path | None:
    """The Hugging Face files of a checkpoint folder, or of the checkpoint an iteration folder belongs to."""
    root = Path(checkpoint)
    for folder in (root / FOLDER, root.parent / FOLDER):
        if (folder / "config.json").is_file():
            return folder
    return None


def tokenizer_size(directory: str | Path) -> int | None:
    """Smallest vocabulary that holds every id of tokenizer.json, or None without that file."""
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content.get("model", {}).get("vocab", {})
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    ids += [token["id"] for token in content.get("added_tokens", [])]
    return max(ids) + 1 if ids else None
