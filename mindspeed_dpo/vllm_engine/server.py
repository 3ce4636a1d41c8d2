"""The vLLM process: it serves the requests of one rollout worker until that ends.

Runs in the interpreter that vLLM is installed in, which need not have this package: `bootstrap` makes it importable,
and nothing below imports another library of the trainer. Requests arrive over a socket (`messages`), weights in memory
that both processes share. vLLM itself runs in this process, its tensor-parallel workers are children of it.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import vllm
from cloudpickle import register_pickle_by_value
from torch import Tensor
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants, living_descendants
from mindspeed_dpo.vllm_engine.leftovers import remove_files, shared_segments
from mindspeed_dpo.vllm_engine.messages import receive_message, send_message

END_TIMEOUT_S = 5.0
PROGRESS_INTERVAL_S = 1.0
Message = dict[str, Any]
Place = tuple[str, str, tuple[int, ...], int]
"""Name, dtype, shape and offset in bytes of a tensor in the shared memory."""


class Refused(Exception):
    """A request that cannot be served; the engine goes on."""


def serve(descriptor: int) -> None:
    """Serve the requests that come over a socket, the first of which starts the engine."""
    os.set_inheritable(descriptor, False)
    adopt_orphans()
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    # vLLM's tensor-parallel workers are other processes, which cannot import this module.
    register_pickle_by_value(sys.modules[__name__])
    server: Server | None = None
    while True:
        message, descriptors = _receive(connection)
        try:
            if server is None:
                server = Server(connection, message, descriptors[0])
                send_message(connection, {"vllm": vllm.__version__, "torch": torch.__version__})
            else:
                send_message(connection, server.answer(message))
        # vLLM raises errors of any type, all of which the worker reports.
        except Exception as error:
            send_message(connection, {"failed": _one_line(error)})
            if not isinstance(error, Refused):
                raise


class Server:
    """The engine, the memory from which it takes weights, and the version that it holds."""

    def __init__(self, connection: socket.socket, start: Message, weights: int) -> None:
        """Start the engine.

        Args:
            connection: Where signs of life are sent.
            start: Arguments of the engine, and the places of the tensors in the shared memory.
            weights: File descriptor of that memory.
        """
        self._connection = connection
        self._places: list[Place] = [
            (name, dtype, tuple(shape), offset) for name, dtype, shape, offset in start["tensors"]
        ]
        self._memory = f"/proc/{os.getpid()}/fd/{weights}"
        self._version: int | None = None
        self._said_alive_s = time.monotonic()
        self._engine = LLMEngine.from_engine_args(EngineArgs(**start["arguments"]))

    def answer(self, request: Message) -> Message:
        """Serve one request.

        Raises:
            Refused: The engine does not hold what the request needs.
        """
        requests: dict[str, Callable[[Message], Message]] = {"load": self._load, "generate": self._generate}
        return requests[request["request"]](request)

    def _load(self, request: Message) -> Message:
        """Take over all weights from the shared memory; without them in full, the engine holds no version."""
        self._version = None
        self._engine.collective_rpc(_load_weights, args=(self._memory, self._places))
        # What was computed with earlier weights must not be the beginning of a response.
        self._engine.reset_prefix_cache()
        self._version = request["version"]
        return {"version": self._version}

    def _generate(self, request: Message) -> Message:
        if request["version"] != self._version:
            raise Refused(f"version {request['version']} is to generate, the engine holds {self._version}")
        order: list[str] = []
        for position, (prompt, seeds) in enumerate(zip(request["prompts"], request["seeds"], strict=True)):
            for k, seed in enumerate(seeds):
                order.append(f"{position}/{k}")
                sampling = SamplingParams(seed=seed, output_kind=RequestOutputKind.FINAL_ONLY, **request["sampling"])
                self._engine.add_request(order[-1], {"prompt_token_ids": prompt}, sampling)
        responses = dict(self._completed())
        return {"responses": [responses[name] for name in order]}

    def _completed(self) -> Iterator[tuple[str, Message]]:
        """Yield the name and the response of each request as it is completed."""
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    yield output.request_id, _response(output.outputs[0])
            self._say_alive()

    def _say_alive(self) -> None:
        if time.monotonic() - self._said_alive_s >= PROGRESS_INTERVAL_S:
            self._said_alive_s = time.monotonic()
            send_message(self._connection, {"alive": True})


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


def _load_weights(worker: Any, path: str, places: Sequence[Place]) -> None:
    """Load all weights in one of vLLM's workers, whose model copies its part of each.

    Raises:
        RuntimeError: The model has a weight that none of them is for; vLLM itself only warns.
    """
    model = worker.model_runner.get_model()
    _forget_host_kernels(model)
    names: set[str] = {name for name, _ in model.named_parameters()}
    loaded: set[str] = set()
    load = model.load_weights

    def load_and_note(weights: Any) -> Any:
        found = load(weights)
        loaded.update(names if found is None else found)
        return found

    model.load_weights = load_and_note
    try:
        worker.model_runner.reload_weights(weights_iterator=_mapped_tensors(path, places))
    finally:
        del model.load_weights
    if missing := sorted(names - loaded):
        raise RuntimeError(f"{len(missing)} weights of vLLM's model were not among those sent, {missing[0]} is one")
    _pack_tied_weights(model)


def _forget_host_kernels(model: Any) -> None:
    """Let vLLM set up experts on the host again, with their new weights.

    vLLM 0.32 packs their weights only together with the first kernel, and later copies what is not packed.
    """
    if current_platform.is_cpu():
        for module in model.modules():
            method: Any = getattr(module, "quant_method", None)
            if hasattr(method, "moe_kernel"):
                method.moe_kernel = None


def _pack_tied_weights(model: Any) -> None:
    """Pack again what vLLM packs on the host from a weight that another layer loads.

    That is the output layer of a tied model, which vLLM 0.32 leaves with its first weights.
    """
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


def _mapped_tensors(path: str, places: Sequence[Place]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor, a view of the shared memory, of all weights."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    for name, dtype, shape, offset in places:
        count = math.prod(shape)
        yield name, torch.frombuffer(memory, dtype=getattr(torch, dtype), count=count, offset=offset).view(shape)


def _receive(connection: socket.socket) -> tuple[Message, list[int]]:
    """Wait for a request; where the worker has ended, so does this process."""
    try:
        content, descriptors = receive_message(connection)
    except (EOFError, ConnectionResetError):
        _end()
    return json.loads(content), descriptors


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _end_with_parent(descriptor: int) -> None:
    """End this process and all that it started once the other end of the socket has closed, whatever runs here."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    _end()


def _end() -> NoReturn:
    """End this process and all that it started, and remove what that would leave behind."""
    segments = shared_segments([os.getpid(), *living_descendants()])
    end_descendants(END_TIMEOUT_S)
    remove_files(segments)
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os._exit(0)
