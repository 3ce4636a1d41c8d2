"""The model, tokenizer and pairs that the benchmarks of training work on, and the least work they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.preprocess import preprocess
from mindspeed_dpo.data.settings import PreprocessSettings

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
MAX_LENGTH = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama with a tied head, named as its config.json does."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int = 32_000

    def gflop_of_pairs(self, lengths: np.ndarray, passes: int) -> float:
        """The least work: each prompt token once, response rows alone through the head, visible keys alone.

        Args:
            lengths: [n, 3] tokens of prompt, chosen and rejected.
            passes: Forward passes, a backward pass counting as two of them.
        """
        prompt, responses = lengths[:, 0].astype(float), lengths[:, 1:].astype(float)
        width = self.hidden_size // self.num_attention_heads
        per_row = self.hidden_size * (2 * self.hidden_size + 2 * self.num_key_value_heads * width)
        per_row += 3 * self.hidden_size * self.intermediate_size
        rows = prompt.sum() + responses.sum()
        seen = (prompt * (prompt + 1) / 2).sum() + (responses * (prompt[:, None] + (responses + 1) / 2)).sum()
        layers = self.num_hidden_layers * (2 * per_row * rows + 4 * self.hidden_size * seen)
        return passes * float(layers + 2 * self.hidden_size * self.vocab_size * responses.sum()) / 1e9


SIZES = {
    "tiny": Size(64, 2, 4, 2, 176, 512),
    "40m": Size(512, 8, 8, 4, 1408),
    "174m": Size(1024, 12, 16, 8, 2816),
}


def make_model(folder: Path, size: Size, dtype: str) -> None:
    """A Llama with random weights in Hugging Face's format."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **vars(size), max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)


def make_tokenizer(folder: Path, texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the texts."""
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


def choose_pairs(rows: list[dict[str, Any]], tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """`count` pairs spread evenly over those whose prompts leave room for answers; all where there are no more."""

    def tokens(row: dict[str, Any]) -> int:
        return len(tokenizer.apply_chat_template(conversational(row)["prompt"], tokenize=True, return_dict=False))

    fit = [row for row in rows if tokens(row) < MAX_LENGTH - 64]
    return [fit[int(place)] for place in np.linspace(0, len(fit) - 1, min(count, len(fit)))]


def conversational(row: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """A ShareGPT pair in the words of chat templates, which is also how TRL wants it."""
    parts = {"prompt": row["conversations"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]}
    return {
        name: [{"role": ROLES[message["from"]], "content": message["value"]} for message in messages]
        for name, messages in parts.items()
    }


def prepare(folder: Path, data: Path, size: Size, dtype: str, pairs: int) -> None:
    """Model, tokenizer and pairs, for us and for TRL, in one folder: hf/, trl.jsonl, pairs*."""
    model = folder / "hf"
    make_model(model, size, dtype)
    every = json.loads(data.read_text(encoding="utf-8"))
    texts = (message["content"] for row in every for messages in conversational(row).values() for message in messages)
    tokenizer = make_tokenizer(model, texts, size.vocab_size)
    chosen = choose_pairs(every, tokenizer, pairs)
    lines = [json.dumps(conversational(row)) for row in chosen]
    (folder / "trl.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "raw.json").write_text(json.dumps(chosen), encoding="utf-8")
    preprocess(
        PreprocessSettings(
            input=str(folder / "raw.json"),
            output_prefix=str(folder / "pairs"),
            handler_name="SharegptStylePairwiseHandler",
            map_keys={"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
            prompt_type="chat_template",
            tokenizer_name_or_path=str(model),
        )
    )


def configuration(folder: Path, size: Size, keys: dict[str, Any], **loop: Any) -> RunConfig:
    """A run on what `prepare` made.

    Args:
        folder: That of `prepare`.
        size: Of the model.
        keys: Settings of the actor.
        loop: Settings of the section training.
    """
    width = size.hidden_size // size.num_attention_heads
    model = {
        "num_layers": size.num_hidden_layers, "hidden_size": size.hidden_size,
        "ffn_hidden_size": size.intermediate_size, "num_attention_heads": size.num_attention_heads,
        "num_query_groups": size.num_key_value_heads, "kv_channels": width, "vocab_size": size.vocab_size,
        "make_vocab_size_divisible_by": 1, "untie_embeddings_and_output_weights": False,
        "max_position_embeddings": 2048, "rotary_base": 10000, "norm_epsilon": 1e-6,
    }  # fmt: skip
    training = {
        "stage": "dpo", "seq_length": MAX_LENGTH, "split": "100,0,0", "save_interval": 1_000_000,
        "device": "cpu", "distributed_backend": "gloo", "tensorboard": False, "eval_interval": 0,
        "tokenizer_type": "PretrainedFromHF", "tokenizer_name_or_path": str(folder / "hf"),
        "output_dir": str(folder / "run"), **loop,
    }  # fmt: skip
    actor = {
        "model": "bench", "load": str(folder / "hf"), "finetune": True, "data_path": str(folder / "pairs"),
        "truncation": "keep_start", "no_shuffle": True, "dpo_loss_type": "sigmoid", "dpo_beta": 0.1, "lr": 1e-6,
        "lr_decay_style": "constant", "weight_decay": 0.0,
        "reference_cache_dir": str(folder / "reference"), **keys,
    }  # fmt: skip
    tree = {
        "defaults": [{"model": ["bench"]}],
        "training": training,
        "actor_rollout_ref": {"actor_rollout": actor},
        "resource_pool": {"actor_rollout": [1]},
    }
    places = {folder / "configs" / "model" / "bench.yaml": {"bench": model}, folder / "configs" / "bench.yaml": tree}
    for path, content in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_run("bench", [], folder / "configs")
