"""Every setting of preprocessing, with its default, its meaning and its own check; names are those of MindSpeed-LLM.

Where the values come from, flags or YAML, is the business of `arguments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mindspeed_dpo.data.indexed.column_group import LABELS, MESSAGES, PROMPT_COLUMNS
from mindspeed_dpo.data.preprocessing.column_map import map_key_problems
from mindspeed_dpo.data.preprocessing.handlers import HANDLERS, handler_problem


@dataclass(frozen=True)
class PreprocessSettings:
    """What one run of preprocess_data.py does.

    Attributes:
        input: File or folder of raw data, or the name of a data set on the Hugging Face hub; for a merge, a folder.
        output_prefix: Path prefix of the token files; its folder is made where missing.
        handler_name: How raw rows are read, one of `handlers.HANDLERS`.
        map_keys: Which column plays which part.
        prompt_type: Template name, `chat_template` or `plain`.
        prompt_type_path: Another template file.
        enable_thinking: For reasoning templates: true, false, or None to follow the answers.
        seq_length: Rows with this many tokens or more are dropped; None keeps all.
        dataset_additional_keys: Further columns kept with each row; with prompts, `labels` is the answer's text.
        max_invalid_share: Share of malformed rows above which the run fails, 0 to 1.
        max_samples: Rows read at most; None reads all.
        workers: Processes that tokenise.
        n_subs: Parts that are processed side by side and merged afterwards.
        log_interval: Rows between two progress lines.
        tokenizer_name_or_path: Local Hugging Face tokenizer.
        tokenizer_not_use_fast: Use the slow tokenizer.
        trust_remote_code: Run code that lies beside the tokenizer.
        merge_group_keys: Merge mode: the columns of the sets to be merged.
        streaming: Read a hub data set row by row instead of storing it first; local files are always read row by row.
        cache_dir: Where hub data sets are kept.
        overwrite_cache: Fetch a hub data set again.
        hf_datasets_params: JSON file of further arguments for loading a hub data set.
    """

    input: str = ""
    output_prefix: str = ""
    handler_name: str = ""
    map_keys: Mapping[str, Any] = field(default_factory=dict)
    prompt_type: str | None = None
    prompt_type_path: str | None = None
    enable_thinking: bool | None = None
    seq_length: int | None = None
    dataset_additional_keys: tuple[str, ...] = ()
    max_invalid_share: float = 0.2
    max_samples: int | None = None
    workers: int = 1
    n_subs: int = 1
    log_interval: int = 1000
    tokenizer_name_or_path: str | None = None
    tokenizer_not_use_fast: bool = False
    trust_remote_code: bool = False
    merge_group_keys: tuple[str, ...] = ()
    streaming: bool = False
    cache_dir: str = "~/.cache/huggingface/datasets"
    overwrite_cache: bool = False
    hf_datasets_params: str | None = None

    def problems(self) -> list[str]:
        """Everything that is wrong with these settings by themselves, one sentence each."""
        found = [f"{name} is missing" for name in ("input", "output_prefix") if not getattr(self, name)]
        if self.merge_group_keys:
            return found
        found += self._problems_of_handler()
        if not self.tokenizer_name_or_path:
            found.append("tokenizer_name_or_path is missing; it should be a local Hugging Face tokenizer directory")
        if not self.prompt_type:
            found.append("prompt_type is missing; name a template, chat_template or plain")
        least = {"workers": 1, "n_subs": 1, "log_interval": 1, "seq_length": 2, "max_samples": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                found.append(f"{name} should be at least {bound}, got {value}")
        if not 0 <= self.max_invalid_share <= 1:
            found.append(f"max_invalid_share should lie between 0 and 1, got {self.max_invalid_share}")
        return found

    def _problems_of_handler(self) -> list[str]:
        problem = handler_problem(self.handler_name)
        if problem:
            return [problem]
        handler = HANDLERS[self.handler_name]
        found = map_key_problems(handler.columns, self.map_keys)
        if self.dataset_additional_keys and not handler.keeps_extras:
            keepers = [name for name, other in HANDLERS.items() if other.kind == "prompt" and other.keeps_extras]
            found.append(
                f"dataset_additional_keys needs a handler of pairs, or {' or '.join(keepers)}; handler_name is "
                f"{self.handler_name}"
            )
        taken = sorted({*PROMPT_COLUMNS, MESSAGES}.intersection(self.dataset_additional_keys))
        if taken:
            found.append(f"dataset_additional_keys: {', '.join(taken)} is written for every prompt set; leave it out")
        if handler.kind == "pair" and LABELS in self.dataset_additional_keys:
            found.append(f"dataset_additional_keys: {LABELS} is the answer of a prompt; pairs have two, leave it out")
        return found

    def to_json(self) -> str:
        """All settings as text, for other processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PreprocessSettings:
        """The inverse of `to_json`."""
        values = json.loads(text)
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})


FIELD_NAMES = tuple(spec.name for spec in fields(PreprocessSettings))
