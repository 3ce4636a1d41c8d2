"""Make a tiny model with random weights and its byte-level tokenizer, as a Hugging Face folder.

It trains on a laptop's CPU in seconds; nothing is downloaded. The vocabulary of 262 (256 bytes and six special tokens)
is not a multiple of 128, so the vocabulary is padded as for real models.

    python examples/tiny/make_model.py OUTPUT_FOLDER              # Llama
    python examples/tiny/make_model.py OUTPUT_FOLDER --experts    # Qwen3-MoE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

PAD, BOS, EOS, USER, ASSISTANT, END = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (PAD, BOS, EOS, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and no merges; the six special tokens come first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(vocab_size: int, seed: int, has_experts: bool = False) -> PreTrainedModel:
    """Return a float32 model with two layers of width 64, grouped-query attention and untied embeddings.

    It is a Llama, or a Qwen3-MoE with eight experts in every layer, of which two compute a token.
    """
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
    config = Qwen3MoeConfig(**sizes, **experts, head_dim=16) if has_experts else LlamaConfig(**sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def main() -> None:
    """Write model and tokenizer to the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write; files in it are replaced")
    parser.add_argument("--experts", action="store_true", help="make a Qwen3-MoE instead of a Llama")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), options.seed, options.experts)
    # The end-of-turn token also ends a generated response.
    model.generation_config = GenerationConfig(
        bos_token_id=1, pad_token_id=0, eos_token_id=[2, tokenizer.convert_tokens_to_ids(END)]
    )
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name = "Qwen3-MoE" if options.experts else "Llama"
    print(f"{options.output}: {name} with {parameters:,} random weights and {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
