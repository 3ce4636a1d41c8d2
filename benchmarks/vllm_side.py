"""vLLM beside our generator: the engine as a run starts it, with weights from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mindspeed_dpo.vllm_engine.engine_process import EngineProcess, EngineSettings
from mindspeed_dpo.vllm_engine.shared_weights import SharedWeights
from mindspeed_dpo.weights import open_weights

TIMEOUT_S = 3600.0
CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""GiB of the cache, which holds all responses of these benchmarks."""


def vllm(
    folder: Path, python: str, dtype: str, slots: int, longest: int, more: dict[str, Any]
) -> Callable[[list[Tensor], dict[str, Any], int], int]:
    """Start vLLM and return a function (prompts, sampling, responses to each) -> number of response tokens.

    Args:
        folder: Folder of the model.
        python: Interpreter that vLLM is installed in.
        dtype: Data type of the weights.
        slots: Concurrent responses.
        longest: Maximum tokens of prompt and response.
        more: Arguments of the engine.
    """
    weights = SharedWeights(open_weights(folder).model_config(), dtype, torch.device("cpu"))
    for name, tensor in load_file(folder / "model.safetensors").items():
        weights.tensor(name).copy_(tensor)
    arguments = {
        "model": str(folder), "skip_tokenizer_init": True, "load_format": "dummy", "dtype": dtype,
        "max_model_len": longest, "max_num_seqs": slots, "logprobs_mode": "raw_logprobs", "generation_config": "vllm",
        "enable_prefix_caching": True, "disable_log_stats": True, **more,
    }  # fmt: skip
    log = folder / "vllm.log"
    engine = EngineProcess(EngineSettings(python, arguments, TIMEOUT_S, TIMEOUT_S, log, CACHE))
    engine.start([[place.name, place.dtype, place.shape, place.offset] for place in weights.places], weights.descriptor)
    version = 0

    def respond(prompts: list[Tensor], sampling: dict[str, Any], responses: int) -> int:
        nonlocal version
        version += 1
        # New weights, as in a run before each generation; with them the prefixes of earlier calls are forgotten.
        engine.ask("load", {"version": version})
        request = {
            "version": version,
            "prompts": [prompt.tolist() for prompt in prompts],
            "seeds": [[responses * position + k for k in range(responses)] for position in range(len(prompts))],
            "sampling": {"ignore_eos": True, "logprobs": 0, "detokenize": False, **sampling},
        }
        return sum(len(response["tokens"]) for response in engine.ask("generate", request).objects("responses"))

    return respond
