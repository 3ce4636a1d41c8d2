"""All settings of preprocessing with their defaults and checks; the names are those of MindSpeed-LLM.

Flags and YAML files are parsed in `cli`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mindspeed_dpo.data.indexed.column_group import LABELS, MESSAGES, PROMPT_COLUMNS
from mindspeed_dpo.data.preprocessing.column_map import map_key_problems
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS, handler_problem
from mindspeed_dpo.data.preprocessing.pair_settings import PAIR_DEFAULTS, pair_problems


@dataclass(frozen=True)
class PreprocessSettings:
    """Settings of one run of preprocess_data.py; sent to worker processes as JSON.

    Example:
        PreprocessSettings(
            input="orca.jsonl",
            output_prefix="dataset/orca",
            handler_name="AlpacaStylePairwiseHandler",
            map_keys={"prompt": "question", "query": "", "system": "system"},
            prompt_type="qwen",
            tokenizer_name_or_path="models/Qwen2.5-7B",
        )

    Attributes:
        input: File or folder of raw data, or the name of a dataset on the Hugging Face hub; for a merge, a folder.
        output_prefix: Path prefix of the token files; its folder is created if necessary.
        handler_name: Handler that reads the raw rows, one of `handlers.HANDLERS`.
        map_keys: Key of the handler -> column of the data.
        prompt_type: Template name, `chat_template` or `plain`.
        prompt_type_path: Template file to use instead of the default one.
        enable_thinking: For reasoning templates: true, false, or None to decide by the responses of each row.
        seq_length: Rows with at least this many tokens are dropped; None for no limit.
        dataset_additional_keys: Further columns to store with each row; for prompts, `labels` is the reference.
        row_filter: Column -> values; rows with another value are dropped.
        mask_history: Only the messages in which the two responses differ are scored; false scores all of the assistant.
        response_end: `template` scores all that the chat template writes after a response, `end_token` only the token
            that ends it.
        pair_selection: Pairs made of rows with several responses: `best_worst`, `random` or `all`; `list` keeps all
            responses of a row as one ranking.
        min_score_margin: Pairs whose scores differ by less are dropped; equal scores always are.
        seed: Seed of `pair_selection: random`.
        max_invalid_share: Maximum share of malformed rows, 0 to 1; the run fails above it.
        max_samples: Maximum number of rows to read; None for all.
        workers: Number of processes that tokenize.
        n_subs: Number of parts that are processed in parallel and then merged.
        log_interval: Number of rows between two progress messages.
        tokenizer_name_or_path: Directory of a Hugging Face tokenizer.
        tokenizer_not_use_fast: Use the slow tokenizer.
        trust_remote_code: Run Python code in the tokenizer's directory.
        merge_group_keys: Columns of the datasets to merge; selects merge mode.
        streaming: Read a hub dataset row by row without downloading it first; local files are always read row by row.
        cache_dir: Folder of downloaded hub datasets.
        overwrite_cache: Download a hub dataset again.
        hf_datasets_params: JSON file with further arguments for loading a hub dataset.
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
    row_filter: Mapping[str, Any] = field(default_factory=dict)
    mask_history: bool = True
    response_end: str = "template"
    pair_selection: str = "best_worst"
    min_score_margin: float = 0.0
    seed: int = 1234
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
        """Check the settings without reading any data; return one sentence for each problem."""
        problems = [f"{name} is missing" for name in ("input", "output_prefix") if not getattr(self, name)]
        if self.merge_group_keys:
            return problems
        problems += self._handler_problems()
        if not self.tokenizer_name_or_path:
            problems.append("tokenizer_name_or_path is missing; set it to the directory of a Hugging Face tokenizer")
        if not self.prompt_type:
            problems.append("prompt_type is missing; set it to a template name, chat_template or plain")
        minimums = {"workers": 1, "n_subs": 1, "log_interval": 1, "seq_length": 2, "max_samples": 1}
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                problems.append(f"{name} should be at least {minimum}, got {value}")
        if not 0 <= self.max_invalid_share <= 1:
            problems.append(f"max_invalid_share should lie between 0 and 1, got {self.max_invalid_share}")
        return problems

    def _handler_problems(self) -> list[str]:
        problem = handler_problem(self.handler_name)
        if problem:
            return [problem]
        handler = HANDLERS[self.handler_name]
        problems = map_key_problems(handler.columns, self.map_keys)
        if self.dataset_additional_keys and not handler.allows_additional_keys:
            supporting = [
                name for name, other in HANDLERS.items() if other.kind == "prompt" and other.allows_additional_keys
            ]
            problems.append(
                f"dataset_additional_keys needs a pair handler, or {' or '.join(supporting)}; handler_name is "
                f"{self.handler_name}"
            )
        taken = sorted({*PROMPT_COLUMNS, MESSAGES}.intersection(self.dataset_additional_keys))
        if taken:
            problems.append(f"dataset_additional_keys: {', '.join(taken)} is always written for prompts; remove it")
        written = sorted(set(handler.rating_columns(self.map_keys)).intersection(self.dataset_additional_keys))
        if written:
            problems.append(f"dataset_additional_keys: {', '.join(written)} is written with scores; remove it")
        if handler.kind == "pair" and LABELS in self.dataset_additional_keys:
            problems.append(f"dataset_additional_keys: {LABELS} applies to prompts, not to pairs; remove it")
        return problems + pair_problems(self.pair_settings(), handler, self.map_keys, self.prompt_type)

    def pair_settings(self) -> dict[str, Any]:
        """Return the settings that concern pairs."""
        return {name: getattr(self, name) for name in PAIR_DEFAULTS}

    def changed_keys(self) -> dict[str, Any]:
        """Return what of these is not the default, for the metadata file."""
        changed = {name: value for name, value in self.pair_settings().items() if value != PAIR_DEFAULTS[name]}
        changed |= {"seed": self.seed} if self.pair_selection == "random" else {}
        return changed | ({"row_filter": dict(self.row_filter)} if self.row_filter else {})

    def to_json(self) -> str:
        """Serialize the settings for other processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PreprocessSettings:
        """Deserialize settings from the output of `to_json`."""
        values = json.loads(text)
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})
