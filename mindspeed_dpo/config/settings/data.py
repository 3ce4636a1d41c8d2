"""Training data and tokenizer: their paths and how rows are selected. Nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preprocessed pairs or prompts, and the tokenizer that they were preprocessed with."""

    data_path: str = setting(
        help="Prefix of the files written by preprocess_data.py (pairs; online: prompts), without `_packed…`. Several "
        "datasets are written `a,b`, or `weight,a,weight,b` with their shares of an epoch.",
        is_path=True,
    )
    split: str = setting("100,0,0", help="Shares of rows for training, evaluation and test, such as 98,2,0.")
    seq_length: int = setting(
        derived="max_position_embeddings",
        help="Maximum length of prompt plus response; longer rows are handled by `truncation`. Online, a response has "
        "at most seq_length - max_prompt_length tokens.",
        unit="tokens",
        check=at_least(2),
    )
    truncation: str = setting(
        "cut_prompt",
        help="Handling of rows longer than seq_length: cut_prompt removes tokens from the start of the prompt, "
        "keep_start removes them from the end of the response, drop skips the row.",
        choices=("cut_prompt", "keep_start", "drop"),
    )
    no_shuffle: bool = setting(False, help="Read rows in file order instead of shuffling every epoch.")
    tokenizer_name_or_path: str | None = setting(
        None, help="Directory of the Hugging Face tokenizer; required online.", is_path=True
    )
    prompt_type: str | None = setting(
        None,
        help="Name of the chat template that the data was preprocessed with; online it also defines the stop tokens.",
    )
    prompt_type_path: str | None = setting(
        None, help="File of chat templates; null uses the built-in templates.", is_path=True
    )
