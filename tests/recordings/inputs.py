"""Makes what the recorded runs start from: tiny random models as policy, references near them, and rows of pairs.

    python -m tests.recordings.inputs DIR

The repository has these files already (`tests/recordings/data`); this says how they came to be. Random numbers of torch
may differ between processors, so other weights may come out elsewhere.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, MixtralConfig, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A turn deliberately ends with another token than eos."""
MODEL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.08,  # larger than usual: log-probs and gradients far from degenerate
}  # fmt: skip
SMALL: dict[str, Any] = {
    **MODEL, "hidden_size": 16, "intermediate_size": 32, "num_experts_per_tok": 2, "initializer_range": 0.2,
}  # fmt: skip
QWEN3_MOE: dict[str, Any] = {
    **SMALL, "num_hidden_layers": 3, "head_dim": 8, "mlp_only_layers": [0], "num_experts": 6,
    "moe_intermediate_size": 8, "norm_topk_prob": True, "tie_word_embeddings": True,
}  # fmt: skip
"""The first of its three layers is dense."""
MIXTRAL: dict[str, Any] = {**SMALL, "intermediate_size": 16, "num_local_experts": 4}
ROPE_THETA = 10000.0
REFERENCE_NOISE = 0.02
WORDS = [
    "the", "sky", "is", "blue", "green", "red", "one", "two", "three", "cat", "dog", "runs", "fast", "slow", "up",
    "down", "left", "right",
]  # fmt: skip
ROWS = 64


def write_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer without merges, so that text boundaries never merge; its size is no multiple of 128."""
    order = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(order)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # By hand, so that both generations of transformers (4 and 5) read them.
    names = {**NAMED, "additional_special_tokens": [token for token in SPECIAL if token not in NAMED.values()]}
    _write(folder / "special_tokens_map.json", names)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "model_max_length": 1000000}
    settings |= {"padding_side": "right", "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE}
    _write(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return len(order)


def write_models(folder: Path) -> None:
    """The Llama with its tokenizer, and models with experts, which use the same one."""
    vocabulary = max(write_tokenizer(folder / role) for role in ("policy", "reference"))
    special = {name.replace("_token", "_token_id"): SPECIAL.index(token) for name, token in NAMED.items()}
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    common = {"vocab_size": vocabulary, "rope_parameters": rope, **special}
    write_pair(folder, LlamaConfig(**common, **MODEL))
    write_pair(folder / "qwen3_moe", Qwen3MoeConfig(**common, **QWEN3_MOE))
    write_pair(folder / "mixtral", MixtralConfig(**common, **MIXTRAL))


def write_pair(folder: Path, config: PreTrainedConfig) -> None:
    """The policy, and as reference the policy plus noise, so that the first loss is not log 2."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).float()
    save_model(model, folder / "policy")
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * REFERENCE_NOISE)
    save_model(model, folder / "reference")


def write_rows(folder: Path) -> None:
    """The same pairs as plain text and as conversations of one turn."""
    source = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(source.choice(WORDS) for _ in range(source.randint(least, most)))

    plain, conversations = [], []
    for _ in range(ROWS):
        prompt, chosen, rejected = text(2, 6), text(1, 6), text(1, 6)
        while rejected == chosen:
            rejected = text(1, 6)
        plain.append({"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected})
        turns = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
        conversations.append({part: [{"role": role, "content": said}] for part, (role, said) in turns.items()})
    for name, rows in (("preferences", plain), ("conversational", conversations)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """As save_pretrained, with a config.json that transformers 4 understands as well."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_theta": ROPE_THETA, "rope_scaling": None, "torch_dtype": "float32"}
    _write(folder / "config.json", dict(sorted(config.items())))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
    write_rows(Path(sys.argv[1]))
