"""Tiny tokenizers made on the spot: every byte is a token, plus the special tokens and merges that a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>")


def save_tokenizer(
    directory: Path,
    *,
    special: Sequence[str] = (),
    plain: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
    bos: str | None = "<s>",
    eos: str | None = "</s>",
    pad: str | None = "<pad>",
    chat_template: str | None = None,
) -> Path:
    """Save a byte-level tokenizer and return its directory.

    Args:
        directory: Made where missing.
        special: Further special tokens; ids follow pad, bos and eos, which start at 0.
        plain: Tokens of the vocabulary that the tokenizer does not treat as special.
        merges: Pairs of characters or tokens that become one token.
        bos: Start token, None for a tokenizer without one.
        eos: End token, None for a tokenizer without one.
        pad: Padding token, None for a tokenizer without one.
        chat_template: Jinja text.
    """
    named = [token for token in (pad, bos, eos, *special) if token is not None]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*dict.fromkeys([*named, *alphabet, *plain, *("".join(pair) for pair in merges)])]
    model = models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=list(merges))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(directory)
    return directory


def save_chat_tokenizer(directory: Path) -> Path:
    """A byte-level tokenizer with a small chat template that ends turns with `<|end|>`."""
    return save_tokenizer(directory, special=CHAT_TOKENS, chat_template=CHAT_TEMPLATE)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens written out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
