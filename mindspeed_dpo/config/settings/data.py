"""What a role reads and writes: preference data and checkpoints. Names only; nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import at_least, setting


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preprocessed pairs or prompts and the tokenizer they were made with."""

    data_path: str = setting(
        help="Prefix of the files that preprocess_data.py wrote (pairs, or prompts online), up to before `_packed`; "
        "several as `a,b`, or with shares of an epoch as `weight,a,weight,b`."
    )
    split: str = setting("100,0,0", help="Shares of rows for training, evaluation and test, e.g. 98,2,0.")
    seq_length: int = setting(
        derived="max_position_embeddings",
        help="Longest prompt plus response; longer rows are treated by `truncation`. Online, a response has at most "
        "seq_length - max_prompt_length tokens.",
        unit="tokens",
        check=at_least(2),
    )
    truncation: str = setting(
        "cut_prompt",
        help="Too long a row: cut_prompt takes tokens from the front of the prompt, keep_start from the end of the "
        "response, drop leaves the row out.",
        choices=("cut_prompt", "keep_start", "drop"),
    )
    no_shuffle: bool = setting(False, help="Keep the order of the file instead of a new order per epoch.")
    tokenizer_type: str = setting(
        "PretrainedFromHF",
        help="A local Hugging Face tokenizer; both names mean the same.",
        choices=("PretrainedFromHF", "HuggingFaceTokenizer"),
    )
    tokenizer_name_or_path: str | None = setting(None, help="Directory of the tokenizer; online it must be given.")
    prompt_type: str | None = setting(
        None,
        help="Name of the chat template, which the data has applied already; online it also tells how answers end.",
    )
    prompt_type_path: str | None = setting(None, help="File of chat templates; null is the one shipped here.")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where weights come from and where they go."""

    load: str | None = setting(
        None, help="Initial weights: a Hugging Face directory, converted weights, or a training checkpoint."
    )
    random_init: bool = setting(False, help="Start from random weights on purpose, instead of `load`.")
    save: str = setting(derived="<output_dir>/checkpoints", help="Directory of the checkpoints this run writes.")
    save_interval: int | None = setting(
        None,
        help="Steps between checkpoints; one is always written at the end.",
        unit="steps",
        check=at_least(1),
        shared=True,
    )
    async_save: bool = setting(
        False,
        help="Copy a checkpoint to host memory and write it while training goes on; the copy is as large as the files "
        "that the process writes.",
    )
    keep_last_checkpoints: int | None = setting(
        None,
        help="How many of the run's newest checkpoints are kept; older ones are deleted once a newer one is whole, but "
        "never the best. null keeps all.",
        check=at_least(1),
        shared=True,
    )
    finetune: bool = setting(
        False, help="Take only the weights of `load` and start at step 0; resume_from is not concerned."
    )
    no_load_optim: bool = setting(False, help="Do not read optimizer state from `load`; resume_from is not concerned.")
    no_load_rng: bool = setting(
        False, help="Do not read random-number state from `load`; resume_from is not concerned."
    )
    no_save_optim: bool = setting(False, help="Leave optimizer state out of checkpoints; they cannot be resumed.")
    no_save_rng: bool = setting(False, help="Leave random-number state out of checkpoints.")
    resume_from: str | None = setting(
        None, help="Continue an interrupted run exactly: one of its checkpoints, or its output_dir for the newest."
    )
    load_checkpoint_loosely: bool = setting(
        False, help="Accept weights with missing or surplus names; each is reported."
    )
