"""Model, tokenizer, pairs and prompts of the training benchmarks, and the minimum FLOPs of a step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from mindspeed_dpo.data.preprocessing.pipeline import preprocess
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
MAX_LENGTH = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama with tied embeddings, named as in its config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int = 32_000

    def hf_config(self) -> PretrainedConfig:
        """Return the config of transformers."""
        return LlamaConfig(**vars(self), **COMMON)

    def megatron_keys(self) -> dict[str, Any]:
        """Return the sizes under Megatron's names, as in a model file."""
        return {
            "num_layers": self.num_hidden_layers, "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.intermediate_size, "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.num_key_value_heads,
            "kv_channels": self.hidden_size // self.num_attention_heads, "vocab_size": self.vocab_size,
            "make_vocab_size_divisible_by": 1, "untie_embeddings_and_output_weights": False,
            "max_position_embeddings": 2048, "rotary_base": 10000, "norm_epsilon": 1e-6,
        }  # fmt: skip

    def gflop_of_pairs(self, lengths: np.ndarray, passes: int) -> float:
        """Return the minimum GFLOP: prompt tokens once, the head for responses only, attention to visible keys only.

        Args:
            lengths: [n, 3] tokens of prompt, chosen and rejected.
            passes: Number of forward passes; a backward pass counts as two.
        """
        prompt, responses = lengths[:, 0].astype(float), lengths[:, 1:].astype(float)
        width = self.hidden_size // self.num_attention_heads
        per_row = self.hidden_size * (2 * self.hidden_size + 2 * self.num_key_value_heads * width)
        per_row += 3 * self.hidden_size * self.intermediate_size
        rows = prompt.sum() + responses.sum()
        seen = (prompt * (prompt + 1) / 2).sum() + (responses * (prompt[:, None] + (responses + 1) / 2)).sum()
        layers = self.num_hidden_layers * (2 * per_row * rows + 4 * self.hidden_size * seen)
        return passes * float(layers + 2 * self.hidden_size * self.vocab_size * responses.sum()) / 1e9


@dataclass(frozen=True, kw_only=True)
class MoeSize(Size):
    """Sizes of a Qwen3-MoE with tied embeddings and experts in all layers.

    `intermediate_size` is the width of all experts of a token together, so that a token passes as many weights as in a
    Llama of the same sizes, plus those of the router, which the minimum FLOPs omit.
    """

    num_experts: int
    num_experts_per_tok: int

    @property
    def moe_intermediate_size(self) -> int:
        """Width of an expert."""
        return self.intermediate_size // self.num_experts_per_tok

    def hf_config(self) -> PretrainedConfig:
        """Return the config of transformers, without the loss that balances the load of experts."""
        return Qwen3MoeConfig(
            **vars(self), **COMMON, moe_intermediate_size=self.moe_intermediate_size, norm_topk_prob=True,
            head_dim=self.hidden_size // self.num_attention_heads, router_aux_loss_coef=0.0,
        )  # fmt: skip

    def megatron_keys(self) -> dict[str, Any]:
        """Return the sizes under Megatron's names, as in a model file."""
        return super().megatron_keys() | {
            "qk_layernorm": True, "num_experts": self.num_experts, "moe_router_topk": self.num_experts_per_tok,
            "moe_ffn_hidden_size": self.moe_intermediate_size, "norm_topk_prob": True,
        }  # fmt: skip


COMMON = {
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}  # fmt: skip
SIZES = {
    "tiny": Size(64, 2, 4, 2, 176, 512),
    "40m": Size(512, 8, 8, 4, 1408),
    "174m": Size(1024, 12, 16, 8, 2816),
    "tiny-moe": MoeSize(64, 2, 4, 2, 176, 512, num_experts=4, num_experts_per_tok=2),
    "40m-moe": MoeSize(512, 8, 8, 4, 1408, num_experts=16, num_experts_per_tok=4),
}


def make_model(folder: Path, size: Size, dtype: str, stops: int = 0) -> None:
    """Save a model with random weights in Hugging Face format; the last `stops` tokens are stop tokens."""
    torch.manual_seed(0)
    config = size.hf_config()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(getattr(torch, dtype))
    model.generation_config.eos_token_id = [config.eos_token_id, *range(size.vocab_size - stops, size.vocab_size)]
    model.save_pretrained(folder)


def make_tokenizer(folder: Path, texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in (PAD, BOS, EOS)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet,
                                   show_progress=False)
    )  # fmt: skip
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)
    return fast


def choose_rows(rows: list[dict[str, Any]], tokenizer: Any, count: int, longest: int) -> list[dict[str, Any]]:
    """Return up to `count` rows, spread evenly over those with prompts of at most `longest` tokens."""

    def tokens(row: dict[str, Any]) -> int:
        return len(tokenizer(prompt_text(row, tokenizer), add_special_tokens=False)["input_ids"])

    fit = [row for row in rows if tokens(row) <= longest]
    return [fit[int(place)] for place in np.linspace(0, len(fit) - 1, min(count, len(fit)))]


def prompt_text(row: dict[str, Any], tokenizer: Any) -> str:
    """Return the prompt of a row with the chat template applied."""
    words = {"tokenize": False, "add_generation_prompt": True}
    return str(tokenizer.apply_chat_template(conversational(row)["prompt"], **words))


def conversational(row: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Convert a ShareGPT pair to the conversational format of TRL."""
    parts = {"prompt": row["conversations"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]}
    return {
        name: [{"role": ROLES[message["from"]], "content": message["value"]} for message in messages]
        for name, messages in parts.items()
    }


def prepare(folder: Path, data: Path, size: Size, dtype: str, pairs: int) -> None:
    """Call `prepare_pairs` with the rows of a file."""
    every = json.loads(data.read_text(encoding="utf-8"))
    prepare_pairs(folder, every, size, dtype, pairs, MAX_LENGTH - 64)


def prepare_pairs(folder: Path, every: list[dict[str, Any]], size: Size, dtype: str, pairs: int, longest: int) -> None:
    """Write model, tokenizer and pairs for both sides: hf/, trl.jsonl, pairs*; arguments as in `prepare_prompts`."""
    make_model(folder / "hf", size, dtype)
    tokenizer = make_tokenizer(folder / "hf", texts_of(every), size.vocab_size)
    chosen = choose_rows(every, tokenizer, pairs, longest)
    write_lines(folder / "trl.jsonl", map(conversational, chosen))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    tokenize(folder, "pairs", chosen, "SharegptStylePairwiseHandler", columns)


def prepare_prompts(
    folder: Path, every: list[dict[str, Any]], size: Size, dtype: str, prompts: int, longest: int, mean_response: int
) -> None:
    """Write model, tokenizer and prompts for both sides: hf/, trl.jsonl, prompts*.

    Args:
        folder: Output folder.
        every: Rows in ShareGPT format.
        size: Size of the model.
        dtype: Data type of its weights.
        prompts: Number of prompts to choose.
        longest: Maximum tokens of a prompt.
        mean_response: Mean tokens of a response without a limit. The next token of a random model is nearly uniform,
            so one in `mean_response` tokens is a stop token; 0 for no stop tokens.
    """
    make_model(folder / "hf", size, dtype, stops=size.vocab_size // mean_response if mean_response else 0)
    tokenizer = make_tokenizer(folder / "hf", texts_of(every), size.vocab_size)
    chosen = choose_rows(every, tokenizer, prompts, longest)
    write_lines(folder / "trl.jsonl", [{"prompt": prompt_text(row, tokenizer)} for row in chosen])
    tokenize(folder, "prompts", chosen, "PPOSharegptStyleInstructionHandler", {"messages": "conversations"})


def synthetic_row(prompt: int, chosen: int, rejected: int) -> dict[str, Any]:
    """Return a ShareGPT pair with the given numbers of words, each of which is one token."""
    question, good, bad = (" ".join([word] * count) for word, count in
                        (("what", prompt), ("yes", chosen), ("no", rejected)))  # fmt: skip
    return {
        "conversations": [{"from": "human", "value": question}],
        "chosen": {"from": "gpt", "value": good},
        "rejected": {"from": "gpt", "value": bad},
    }


def texts_of(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Iterate over the texts of all messages."""
    return (message["content"] for row in rows for messages in conversational(row).values() for message in messages)


def write_lines(path: Path, records: Iterable[Any]) -> None:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def tokenize(folder: Path, name: str, rows: list[dict[str, Any]], handler: str, columns: dict[str, str]) -> None:
    """Preprocess the rows into token files, as `preprocess_data.py` does."""
    (folder / "raw.json").write_text(json.dumps(rows), encoding="utf-8")
    preprocess(
        PreprocessSettings(
            input=str(folder / "raw.json"),
            output_prefix=str(folder / name),
            handler_name=handler,
            map_keys=columns,
            prompt_type="chat_template",
            tokenizer_name_or_path=str(folder / "hf"),
        )
    )
