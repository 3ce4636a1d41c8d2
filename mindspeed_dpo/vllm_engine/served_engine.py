"""vLLM's engine as the requests of a rollout worker see it; runs in the interpreter that vLLM is installed in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from mindspeed_dpo.vllm_engine.loading import Place, load_weights

WEIGHTS, CACHE = "weights", "kv_cache"
"""vLLM's names for the two parts of its memory, which sleep together and are woken one after the other."""
DROPPED = 2
"""The level of sleep that drops weights; at 1 they are kept on the host."""
Message = dict[str, Any]


class Refused(Exception):
    """A request that cannot be served; the engine goes on."""


class ServedEngine:
    """The engine, the memory from which it takes weights, and the version that it holds."""

    def __init__(self, start: Message, weights: int, advance: Callable[[], None]) -> None:
        """Start the engine.

        Args:
            start: Arguments of the engine, and the places of the tensors in the shared memory; without any, the
                engine keeps the weights that it reads at its start.
            weights: File descriptor of that memory.
            advance: Called after each step.
        """
        self._places: list[Place] = [
            (name, dtype, tuple(shape), offset) for name, dtype, shape, offset in start["tensors"]
        ]
        self._memory = f"/proc/{os.getpid()}/fd/{weights}"
        self._advance = advance
        self._version: int | None = None
        self._asleep: set[str] = set()
        # A judge model's engine gets no tensors: it has read its own.
        self._has_weights = not self._places
        self._engine = LLMEngine.from_engine_args(EngineArgs(**{**_of_platform(), **start["arguments"]}))

    def answer(self, request: Message) -> Message:
        """Serve one request.

        Raises:
            Refused: The engine does not hold what the request needs.
        """
        requests: dict[str, Callable[[Message], Message]] = {
            "load": self._load,
            "generate": self._generate,
            "sleep": self._sleep,
        }
        return requests[request["request"]](request)

    def _load(self, request: Message) -> Message:
        """Take over all weights from the shared memory; without them in full, the engine holds no version."""
        self._version = None
        self._has_weights = False
        self._wake()
        self._version = request["version"]
        return {"version": self._version}

    def _sleep(self, request: Message) -> Message:
        """Free the memory of weights and cache on the devices until the next request that needs it."""
        if not self._asleep:
            self._engine.sleep(request["level"])
            self._asleep = {WEIGHTS, CACHE}
            self._has_weights = self._has_weights and request["level"] != DROPPED
        return {"level": request["level"]}

    def _wake(self) -> None:
        """Have the weights in memory, loaded again where they are not the last, and then the cache.

        The cache comes last, as loading takes memory of its own.
        """
        self._wake_part(WEIGHTS)
        if not self._has_weights:
            self._engine.collective_rpc(load_weights, args=(self._memory, self._places))
            # What was computed with earlier weights must not be the beginning of a response.
            self._engine.reset_prefix_cache()
            self._has_weights = True
        self._wake_part(CACHE)

    def _wake_part(self, name: str) -> None:
        if name in self._asleep:
            self._engine.wake_up([name])
            self._asleep.discard(name)

    def _generate(self, request: Message) -> Message:
        if request["version"] != self._version:
            raise Refused(f"version {request['version']} is to generate, the engine holds {self._version}")
        self._wake()
        order: list[str] = []
        for position, (prompt, seeds) in enumerate(zip(request["prompts"], request["seeds"], strict=True)):
            for k, seed in enumerate(seeds):
                order.append(f"{position}/{k}")
                sampling = SamplingParams(seed=seed, output_kind=RequestOutputKind.FINAL_ONLY, **request["sampling"])
                self._engine.add_request(order[-1], {"prompt_token_ids": prompt}, sampling)
        outputs = dict(self._completed())
        return {
            "responses": [_response(outputs[name].outputs[0]) for name in order],
            # Prompt tokens that earlier requests had computed, those of the same prompt among them.
            "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs.values()),
        }

    def _completed(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the output of each request as it is completed."""
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    yield output.request_id, output
            self._advance()


def _of_platform() -> dict[str, Any]:
    """Return arguments that vLLM 0.32 needs on the host.

    It cannot take a part of a prompt there if the request has a seed, as it then sets the random generator back.
    """
    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def _response(completion: Any) -> Message:
    """Return token ids, their log-probabilities in nats, and whether a stop token ended the response.

    Raises:
        FloatingPointError: A log-probability is not finite.
    """
    tokens = list(completion.token_ids)
    logps = [place[token].logprob for place, token in zip(completion.logprobs, tokens, strict=True)]
    if not all(map(math.isfinite, logps)):
        raise FloatingPointError(
            "the model's log-probabilities are not finite; check that its weights were loaded completely and that "
            "training did not diverge"
        )
    return {"tokens": tokens, "logps": logps, "ended": completion.finish_reason == "stop"}
