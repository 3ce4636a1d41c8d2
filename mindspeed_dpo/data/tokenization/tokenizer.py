"""Local Hugging Face tokenizers: loading, identity, and which ids end a response.

Nothing is fetched and no code of the tokenizer's directory runs unless asked for. Templates change the end and padding
tokens of a copy, never of the tokenizer given. transformers takes seconds to import, so it is not before the first
tokenizer is loaded: training on tokens does without.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from mindspeed_dpo.data.tokenization.templates import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


def load_tokenizer(
    directory: str | Path, *, use_fast: bool = True, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local directory.

    Args:
        directory: Holds tokenizer.json or another Hugging Face tokenizer.
        use_fast: False selects the slow implementation where there is one.
        trust_remote_code: Run Python code that lies in the directory.

    Raises:
        FileNotFoundError: There is no such directory.
        ValueError: It holds no tokenizer that transformers can load.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"tokenizer_name_or_path: there is no directory {path}")
    transformers = importlib.import_module("transformers")
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            str(path), use_fast=use_fast, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"tokenizer_name_or_path: {path} holds no tokenizer that can be loaded: {reason}") from error
    return tokenizer


def tokenizer_fingerprint(directory: str | Path) -> str:
    """Identity of the map from text to ids: a hash of the vocabulary files in a tokenizer directory.

    tokenizer_config.json is left out: saving a tokenizer anew rewrites it without changing a single id, and what it may
    change (end token, chat template) is part of the template's identity.
    """
    digest = hashlib.sha256()
    for file in _vocabulary_files(directory):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def has_tokenizer(directory: str | Path) -> bool:
    """Whether a directory holds the vocabulary of a tokenizer."""
    return bool(_vocabulary_files(directory))


def _vocabulary_files(directory: str | Path) -> list[Path]:
    path = Path(directory).expanduser()
    files = [path / name for name in _VOCABULARY_FILES if (path / name).is_file()]
    files = files[:1] if files and files[0].name == "tokenizer.json" else files
    return files or sorted(child for child in path.glob("*") if child.suffix in (".model", ".tiktoken"))


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of a token by name, None where the vocabulary lacks it."""
    index = tokenizer.convert_tokens_to_ids(token)
    known = isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == token
    return index if known else None


def with_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with the end and padding tokens of a template.

    Raises:
        ValueError: The template ends turns with a token that the vocabulary lacks, or there is no end token at all.
    """
    tokenizer = copy.deepcopy(tokenizer)
    for stop in template.stop_words:
        if token_id(tokenizer, stop) is not None:
            tokenizer.add_tokens([AddedToken(stop, special=True, normalized=False)], special_tokens=True)
    end = template.stop_words[0] if template.replace_eos and template.stop_words else tokenizer.eos_token
    end = end or "<|endoftext|>"
    if token_id(tokenizer, str(end)) is None:
        raise ValueError(
            f"prompt_type {template.name} ends turns with {end}, which the tokenizer does not have; "
            "choose the template of this model, or chat_template"
        )
    tokenizer.eos_token = str(end)
    return with_padding(tokenizer)


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, padding with its end token if it has no padding token; id 0 is an id like any other."""
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, template: Template | None = None, model_dir: str | Path | None = None
) -> frozenset[int]:
    """Every id at which generation should stop.

    Args:
        tokenizer: Its end token stops.
        template: Its stop words stop, as far as they are single tokens.
        model_dir: Where generation_config.json may name further end ids.

    Raises:
        ValueError: generation_config.json is not readable.
    """
    stops: set[int | None] = {tokenizer.eos_token_id}
    if template is not None:
        stops |= {token_id(tokenizer, word) for word in template.stop_words}
    if model_dir is not None:
        stops |= set(_generation_stops(Path(model_dir).expanduser() / "generation_config.json"))
    return frozenset(stop for stop in stops if stop is not None)


def _generation_stops(path: Path) -> Iterable[int]:
    if not path.is_file():
        return ()
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    ends = settings.get("eos_token_id")
    return () if ends is None else [ends] if isinstance(ends, int) else list(ends)
