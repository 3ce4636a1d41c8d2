"""The folder of a judge model: its config, its tokenizer, what ends a text, and how long one may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.data.tokenization.tokenizer import has_tokenizer, load_tokenizer, stop_token_ids
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.weights.hf.hf_config import read_hf_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


class JudgeFiles(NamedTuple):
    """The content of the folder of a judge model, except its weights.

    Attributes:
        architecture: Class of the model, such as `Qwen3ForCausalLM`.
        tokenizer: Its tokenizer.
        stop_ids: Token ids that end a text.
        max_question_length: Most tokens of a question, so that its text still fits; None for no limit.
    """

    architecture: str
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    max_question_length: int | None


def open_judge_files(settings: RewardConfig) -> JudgeFiles:
    """Read config and tokenizer of a judge model.

    Raises:
        ValueError: One of them is missing, damaged or incomplete, or there are no weights.
        FileNotFoundError: The folder or its config.json does not exist.
    """
    folder = Path(str(settings.judge_model))
    with reraised_as(ValueError, "judge_model should name another folder"):
        config = read_hf_config(folder)
        architectures = config.texts("architectures", ())
        of_text = config.section("text_config") if "text_config" in config else config
        positions = of_text.integer("max_position_embeddings", None)
    if not architectures:
        raise ValueError(f"judge_model: {folder}/config.json names no architectures, by which vLLM chooses its model")
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise ValueError(f"judge_model: {folder} has no weights ({', '.join(_WEIGHTS)})")
    if not has_tokenizer(folder):
        raise ValueError(f"judge_model: {folder} has no tokenizer")
    tokenizer = load_tokenizer(folder, key="judge_model")
    stop_ids = stop_token_ids(tokenizer, model_dir=folder)
    if not stop_ids:
        raise ValueError(
            f"judge_model: neither tokenizer nor generation_config.json of {folder} has an end token, so every text "
            "would run to judge_max_new_tokens; set eos_token in its tokenizer_config.json"
        )
    return JudgeFiles(architectures[0], tokenizer, stop_ids, _max_question_length(settings, positions))


def _max_question_length(settings: RewardConfig, positions: int | None) -> int | None:
    """Return how many of the model's positions a text leaves to its question.

    Raises:
        ValueError: It leaves none.
    """
    limit = settings.judge_vllm_arguments().get("max_model_len")
    max_length = limit if isinstance(limit, int) and limit > 0 else positions
    if max_length is None:
        return None
    if max_length <= settings.judge_max_new_tokens:
        raise ValueError(
            f"judge_max_new_tokens={settings.judge_max_new_tokens} leaves no tokens for a question to judge_model, "
            f"which reads {max_length}; lower it, or raise max_model_len of judge_vllm if that is the limit"
        )
    return max_length - settings.judge_max_new_tokens
