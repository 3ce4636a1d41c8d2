"""Folders of judge models for tests: a config, weights if a test needs some, and a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.tokenizers import save_chat_tokenizer

POSITIONS = 1000


def save_judge_folder(folder: Path) -> Path:
    """A folder as the stand-in of vLLM needs it, which reads no weights."""
    save_chat_tokenizer(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": POSITIONS}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    return folder
