"""Names in messages: the nearest valid name for a misspelt one, and lists of names as part of a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMES_IN_OTHER_TOOLS = {
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
    "epochs": "num_train_epochs",
    "model_name_or_path": "load",
    "train_datasets": "data_path",
    "train_split": "split",
}
"""Keys of TRL, ROLL and align-anything and the key here that corresponds; used for suggestions only."""


_SHORTEST_BEGINNING = 4
"""Characters of a name's beginning that tell which name was meant."""


def normalize_key(key: object) -> str:
    """Spell a key with underscores; `-` and `_` are equivalent in YAML files and flags."""
    return str(key).replace("-", "_")


def nearest_name(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that was most likely meant by `name`, or None."""
    names = list(candidates)
    translated = _NAMES_IN_OTHER_TOOLS.get(name)
    if translated in names:
        return translated
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    longer = [other for other in names if len(name) >= _SHORTEST_BEGINNING and other.startswith(name)]
    return next(iter([*close, *longer]), None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean lr?` as the end of a sentence, or "" where no candidate is close."""
    nearest = nearest_name(name, candidates)
    return f"; did you mean {nearest}?" if nearest else ""


def join_words(words: Iterable[object], last: str = "or") -> str:
    """Join words as in a sentence: `1, 2 or 4`."""
    items = [str(word) for word in words]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"
