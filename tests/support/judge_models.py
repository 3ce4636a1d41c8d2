"""Folders of judge models for tests: a config, weights if a test needs some, and a tokenizer of bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from tests.support.tokenizers import save_chat_tokenizer

POSITIONS = 1000


def save_judge_folder(folder: Path) -> Path:
    """A folder as the stand-in of vLLM needs it, which reads no weights."""
    save_chat_tokenizer(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": POSITIONS}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def judge_engine(python: Path, says: Sequence[str], engine: str = "") -> str:
    """The value of judge_vllm that lets a stand-in say one of these texts, with more arguments of the engine."""
    tokens = [tokenizer().encode(text, add_special_tokens=False) for text in says]
    return f"{{python: {python}, timeout_s: 300, says: {tokens}{engine}}}"


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(save_chat_tokenizer(Path(tempfile.mkdtemp(prefix="judge_"))))
