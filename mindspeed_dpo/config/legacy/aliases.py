"""Names of keys: one spelling inside, several outside, and the nearest known one for a typo."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIASES = {
    "npu_deterministic": "use_deter_comp",
    "no_pad_to_seq_lengths": "variable_seq_lengths",
    "attention_mask_type": "cp_attention_mask_type",
    "use_ascend_mc2": "use_mc2",
    "moe_intermediate_size": "moe_ffn_hidden_size",
    "multi_head_latent_attention": "multi_latent_attention",
    "qk_rope_head_dim": "qk_pos_emb_head_dim",
    "qk_nope_head_dim": "qk_head_dim",
}
"""Other accepted spelling -> the name used here."""

WORDS_OF_OTHER_TOOLS = {
    "learning_rate": "lr",
    "beta": "dpo_beta",
    "scale_coeff": "dpo_beta",
    "label_smoothing": "dpo_label_smoothing",
    "loss_type": "dpo_loss_type",
    "max_steps": "train_iters",
    "save_steps": "save_interval",
    "logging_steps": "log_interval",
    "eval_steps": "eval_interval",
    "logging_dir": "output_dir",
    "resume_from_checkpoint": "resume_from",
    "batch_size": "global_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size",
    "max_grad_norm": "clip_grad",
    "warmup_ratio": "lr_warmup_fraction",
    "warmup_steps": "lr_warmup_iters",
    "lr_scheduler_type": "lr_decay_style",
    "max_length": "seq_length",
    "num_train_epochs": "train_iters",
    "epochs": "train_iters",
    "model_name_or_path": "load",
    "train_datasets": "data_path",
    "train_split": "split",
}
"""What the same thing is called in TRL, ROLL and align-anything; only ever used to help."""


def plain(key: object) -> str:
    """A key as written inside: `-` and `_` mean the same in YAML files and flags."""
    return str(key).replace("-", "_")


def canonical(key: object) -> str:
    """The one name of a key used inside, whatever its spelling outside."""
    return ALIASES.get(plain(key), plain(key))


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known name a writer of `key` most likely meant, or None."""
    names = list(known)
    translated = WORDS_OF_OTHER_TOOLS.get(key)
    if translated in names:
        return translated
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The tail of a sentence, `; did you mean lr?`, or nothing where no name is near."""
    name = nearest(key, known)
    return f"; did you mean {name}?" if name else ""


def listing(words: Iterable[object], last: str = "or") -> str:
    """`1, 2 or 4`: words joined as in a sentence."""
    items = [str(word) for word in words]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"
