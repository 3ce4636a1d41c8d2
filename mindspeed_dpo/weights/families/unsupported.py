"""Models of transformers that are refused, with what they need and is not implemented."""

from __future__ import annotations

from collections.abc import Mapping

_LATENT = "multi-latent attention"
_DELTA = "gated delta net layers (linear attention)"
_SPARSE = "multi-latent attention with an index of the tokens to attend to"

UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash"), _LATENT),
    **dict.fromkeys(("kimi_k2", "kimi_k25"), _LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _SPARSE),
    "deepseek_v4": "compressed sparse attention",
    "kimi_linear": f"{_LATENT} and Kimi delta attention layers (linear attention)",
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _DELTA),
    "gpt_oss": "attention sinks, biases in attention and experts, clamped gates, and windows in every second layer",
    **dict.fromkeys(
        ("llama4", "llama4_text"),
        "layers without rotary embeddings, chunked attention, interleaved rotary pairs, and scores that multiply the "
        "input of experts",
    ),
}
"""`model_type` of config.json -> what is missing."""

UNSUPPORTED_CONVERTER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("deepseek2", "deepseek2-lite", "deepseek3", "minicpm3"), _LATENT),
    "qwen3-next": _DELTA,
}
"""Value of MindSpeed-LLM's `--model-type-hf` -> what is missing."""
