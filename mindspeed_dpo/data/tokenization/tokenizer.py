"""Local Hugging Face tokenizers: loading, fingerprint, the token ids of a text, and those that end a response.

Nothing is downloaded, and code in the tokenizer's directory runs only with `trust_remote_code`. Templates change the
end and padding tokens of a copy. transformers takes seconds to import, so it is imported when a tokenizer is loaded;
training on token files does not need it.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken

from mindspeed_dpo.config.validation.path_advice import missing_weights_advice
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.data.tokenization.templates import Template
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file, read_bytes
from mindspeed_dpo.untrusted.tokenizer_files import MAX_VOCABULARY_BYTES, check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


def load_tokenizer(
    directory: str | Path,
    *,
    use_fast: bool = True,
    trust_remote_code: bool = False,
    key: str = "tokenizer_name_or_path",
) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a local directory.

    Args:
        directory: Directory with tokenizer.json or another Hugging Face tokenizer.
        use_fast: Use the fast implementation if there is one.
        trust_remote_code: Run Python code in the directory.
        key: The setting that names the directory, for messages.

    Raises:
        FileNotFoundError: The directory does not exist.
        ValueError: It contains no tokenizer that transformers can load.
    """
    path = expanded_path(directory)
    if not path.is_dir():
        advice = missing_weights_advice(str(directory))
        raise FileNotFoundError(f"{key}: there is no directory {path}{advice}")
    if not (has_tokenizer(path) or has_file(path / "tokenizer_config.json")):
        raise ValueError(f"{key}: {path} holds no tokenizer; name a folder with tokenizer.json or tokenizer.model")
    transformers = importlib.import_module("transformers")
    with reraised_as(ValueError, f"{key} should name another directory"):
        check_tokenizer(path)
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            str(path), use_fast=use_fast, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # transformers raises errors of any type for files that do not fit each other
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{key}: {path} contains no tokenizer that can be loaded: {reason}") from error
    return tokenizer


def settings_fingerprint(*parts: object) -> str:
    """Return a short hash of what an encoder depends on, equal in every process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def tokenizer_fingerprint(directory: str | Path) -> str:
    """Hash the vocabulary files in a tokenizer directory, which determine the mapping from text to ids.

    tokenizer_config.json is excluded: saving a tokenizer again rewrites it without changing any id, and the settings in
    it that matter (end token, chat template) are part of the template's fingerprint.

    Raises:
        MalformedDataError: A file is larger than `MAX_VOCABULARY_BYTES`.
    """
    digest = hashlib.sha256()
    for file in _vocabulary_files(directory):
        digest.update(file.name.encode())
        digest.update(read_bytes(file, MAX_VOCABULARY_BYTES))
    return digest.hexdigest()[:32]


def has_tokenizer(directory: str | Path) -> bool:
    """Return whether a directory contains the vocabulary of a tokenizer."""
    return bool(_vocabulary_files(directory))


def _vocabulary_files(directory: str | Path) -> list[Path]:
    path = expanded_path(directory)
    files = [path / name for name in _VOCABULARY_FILES if has_file(path / name)]
    files = files[:1] if files and files[0].name == "tokenizer.json" else files
    return files or sorted(
        child for child in path.glob("*") if child.suffix in (".model", ".tiktoken") and has_file(child)
    )


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Return the id of a token, or None if it is not in the vocabulary."""
    index = tokenizer.convert_tokens_to_ids(token)
    exists = isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == token
    return index if exists else None


def with_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with the end and padding tokens of a template.

    Raises:
        ValueError: The end token is not in the vocabulary.
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
    """Return the tokenizer, or a copy that pads with the end token if it has no padding token.

    The padding id is compared with None, since 0 is a valid id.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, template: Template | None = None, model_dir: str | Path | None = None
) -> frozenset[int]:
    """Return all token ids at which generation stops.

    Args:
        tokenizer: Tokenizer, whose end token is included.
        template: Template, whose stop words are included if they are single tokens.
        model_dir: Model directory, whose generation_config.json may define further end ids.

    Raises:
        ValueError: generation_config.json is damaged.
    """
    stops: set[int | None] = {tokenizer.eos_token_id}
    if template is not None:
        stops |= {token_id(tokenizer, word) for word in template.stop_words}
    if model_dir is not None:
        stops |= set(_generation_stops(expanded_path(model_dir) / "generation_config.json"))
    return frozenset(stop for stop in stops if stop is not None)


def _generation_stops(path: Path) -> Iterable[int]:
    if not has_file(path):
        return ()
    settings = read_json_object(path)
    if isinstance(settings.get("eos_token_id"), list):
        return settings.integers("eos_token_id")
    end = settings.integer("eos_token_id", None)
    return () if end is None else (end,)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without the special tokens that a tokenizer adds to its input.

    Raises:
        RowDropped: The text has half of a surrogate pair, which JSON can express and UTF-8 and tokenizers cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowDropped("not_unicode", f"character {error.start + 1} of a text: {text[error.start]!a}") from error
    return list(tokenizer.encode(text, add_special_tokens=False))
