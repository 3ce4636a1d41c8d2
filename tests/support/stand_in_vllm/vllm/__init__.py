"""A stand-in for vLLM, as far as the engine's process uses it: no model, and responses that follow from their seeds.

Some end with the first stop token. What a test wants to go wrong is an argument of the engine: to `hang`, `freeze`
(which keeps Python's lock), `die`, lose its `worker` or run `out_of_memory` in a call, or `lacks`, a weight that no
tensor is for. With `enable_sleep_mode` it writes to its log what it is asked, and refuses what needs sleeping memory.
With `says` it writes one of these token lists, chosen by the length of the prompt.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import sys
import time
import types
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from typing import Any

__version__ = "0.0.stand-in"
TOKENS, GREEDY_TOKENS = 6, 3
"""Length of sampled and of greedy responses."""
SEGMENT = f"stand_in_{os.getpid()}"


@dataclass
class EngineArgs:
    """Arguments of the engine; others are a TypeError, as with vLLM."""

    model: str = ""
    skip_tokenizer_init: bool = False
    load_format: str = ""
    dtype: str = ""
    max_model_len: int = 0
    max_num_seqs: int = 0
    tensor_parallel_size: int = 1
    enable_expert_parallel: bool = False
    logprobs_mode: str = ""
    generation_config: str = ""
    enable_prefix_caching: bool = False
    enable_chunked_prefill: bool = True
    disable_log_stats: bool = False
    enforce_eager: bool = False
    enable_sleep_mode: bool = False
    hang: str = ""
    freeze: str = ""
    die: str = ""
    out_of_memory: str = ""
    lacks: str = ""
    infinite: bool = False
    child: bool = False
    says: list[list[int]] = field(default_factory=list)
    worker: str = ""


class ModelRegistry:
    """The models that there are."""

    @staticmethod
    def get_supported_archs() -> list[str]:
        return ["LlamaForCausalLM"]


@dataclass
class SamplingParams:
    """Settings of one request."""

    seed: int
    output_kind: str
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    detokenize: bool


@dataclass
class Parameter:
    """A weight of the model."""

    name: str


@dataclass
class Model:
    """A model whose weights are those it is given, and perhaps one more."""

    lacks: str
    names: list[str] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        return [(name, Parameter(name)) for name in [*self.names, *filter(None, [self.lacks])]]

    def modules(self) -> list[Any]:
        return []

    def load_weights(self, weights: Any) -> set[str]:
        self.sums = {name: float(tensor.double().sum()) for name, tensor in weights}
        return set(self.sums)


class Runner:
    """What holds the model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get_model(self) -> Model:
        return self._model

    def reload_weights(self, weights_iterator: Any) -> None:
        self._model.load_weights(weights_iterator)


@dataclass
class Worker:
    """A worker of the engine."""

    model_runner: Runner


class LLMEngine:
    """The engine."""

    def __init__(self, arguments: EngineArgs) -> None:
        self._arguments = arguments
        self.model = Model(arguments.lacks)
        self._waiting: list[tuple[str, list[int], SamplingParams]] = []
        self._asleep: set[str] = set()
        if arguments.child:
            import subprocess

            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
            self._segment = SharedMemory(SEGMENT, create=True, size=4096)
        if arguments.worker:
            self._worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
            self._worker.start()
        self._misbehave("start")

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> LLMEngine:
        return cls(arguments)

    def collective_rpc(self, method: Any, args: tuple[Any, ...]) -> list[Any]:
        self._misbehave("load")
        self._use("load", "weights")
        return [method(Worker(Runner(self.model)), *args)]

    def reset_prefix_cache(self) -> bool:
        return True

    def sleep(self, level: int) -> None:
        self._use(f"sleep {level}", "weights", "kv_cache")
        self._asleep = {"weights", "kv_cache"}

    def wake_up(self, tags: list[str]) -> bool:
        self._use(f"wake {' '.join(tags)}")
        assert self._asleep.issuperset(tags), "it is awake"
        self._asleep.difference_update(tags)
        return not self._asleep

    def add_request(self, name: str, prompt: dict[str, list[int]], sampling: SamplingParams) -> None:
        self._waiting.append((name, prompt["prompt_token_ids"], sampling))

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def step(self) -> list[Any]:
        self._misbehave("generate")
        self._use("generate", "weights", "kv_cache")
        name, prompt, sampling = self._waiting.pop()
        chance = random.Random(sampling.seed)
        tokens = [
            chance.randrange(6, 200)
            for _ in range(min(GREEDY_TOKENS if sampling.top_k == 1 else TOKENS, sampling.max_tokens))
        ]
        ends = bool(sampling.stop_token_ids) and chance.random() < 0.5
        if says := self._arguments.says:
            tokens, ends = [*says[len(prompt) % len(says)], 0], True
        tokens = [*tokens[:-1], sampling.stop_token_ids[0]] if ends else tokens
        logp = float("-inf") if self._arguments.infinite else -1.5
        completion = types.SimpleNamespace(
            token_ids=tokens,
            logprobs=[{token: types.SimpleNamespace(logprob=logp)} for token in tokens],
            finish_reason="stop" if ends else "length",
        )
        return [types.SimpleNamespace(request_id=name, finished=True, outputs=[completion], num_cached_tokens=0)]

    def _use(self, what: str, *parts: str) -> None:
        if self._arguments.enable_sleep_mode:
            sys.stderr.write(f"stand-in: {what}\n")
        assert self._asleep.isdisjoint(parts), f"{what} while {self._asleep} sleep"

    def _misbehave(self, where: str) -> None:
        if self._arguments.die == where:
            sys.stderr.write("the stand-in dies\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._arguments.worker == where:
            self._worker.kill()
            raise RuntimeError("cancelled")
        if self._arguments.hang == where:
            time.sleep(1000)
        if self._arguments.freeze == where:
            ctypes.PyDLL(None).sleep(1000)
        if self._arguments.out_of_memory == where:
            import torch  # here, as asking about vLLM should not have to wait for it

            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
