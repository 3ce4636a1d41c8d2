"""The rollout where vLLM generates: one engine for each replica, in a process beside the replica's first rank."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.generation import ANSWER_TIMEOUT_S, PYTHON, SLEEP, START_TIMEOUT_S
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPrompts
from mindspeed_dpo.rollout.generator import PromptResponses, check_prompts, rollout_batch
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.vllm_engine.engine_arguments import (
    engine_arguments,
    host_environment,
    response_seeds,
    sampling_arguments,
)
from mindspeed_dpo.vllm_engine.engine_process import EngineFailure, EngineProcess, EngineSettings
from mindspeed_dpo.vllm_engine.interpreter import interpreter_of
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from mindspeed_dpo.workers.role_values import Rows
from mindspeed_dpo.workers.setup.initial_weights import model_folder
from mindspeed_dpo.workers.setup.stop_tokens import stop_ids
from mindspeed_dpo.workers.setup.visible_devices import visible_devices
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.held_version import current_version
from mindspeed_dpo.workers.weight_sync.shared_with_engine import EngineWeights

logger = logging.getLogger(__name__)


class VllmRolloutWorker(Rollout):
    """One process of the rollout; the first rank of each replica has an engine, the others lend it their devices."""

    def __init__(
        self, context: WorkerContext, role: RoleConfig, dataset: TrainEvalPrompts, actor: ActorWorker | None = None
    ) -> None:
        """Start the engine, which has no weights yet; a collective.

        Args:
            context: Context of this process.
            role: Settings of the rollout.
            dataset: Prompts by row.
            actor: The actor in this process, if there is one.
        """
        self.role, self.dataset = role, dataset
        self.weights = EngineWeights(context, role, actor)
        self.version: int | None = None
        self._seed = context.run.loop.seed
        self._greedy = replace(role, rollout=role.rollout.greedy)
        devices = visible_devices(context, self.weights.place)
        self.engine = self._start_engine(context, devices) if self.weights.place.is_output else None

    @override
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        self.weights.join_group(address, num_senders, num_receivers)

    @override
    def receive_weights(self, version: int) -> int:
        self.version = None
        self.weights.receive(version)
        if self.engine is not None:
            held = self.engine.ask("load", {"version": version}).integer("version")
            if held != version:
                raise EngineFailure(f"the vLLM engine holds weights of version {held} where {version} was sent")
        self.version = version
        return version

    @override
    def generate(self, rows: Rows, first_sample: int, version: int | None = None) -> RolloutBatch | None:
        return self._generate_share(self.role, rows, first_sample, current_version(self.version, version))

    @override
    def generate_greedy(self, rows: Rows, of_reference: bool = False) -> RolloutBatch | None:
        current = current_version(self.version, None)
        if of_reference:
            raise ValueError(
                "evaluations need responses of the reference, whose weights vLLM does not have; resume in the "
                "output_dir of the earlier run, which holds them, or set rollout_engine=builtin or eval_interval=null"
            )
        return self._generate_share(self._greedy, rows, 0, current)

    @override
    def weights_digest(self) -> dict[str, int] | None:
        return self.weights.shared.digests() if self.engine is not None else None

    @override
    def check_alive(self) -> None:
        if self.engine is not None:
            self.engine.check_alive()

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            self.engine.close()

    def _generate_share(self, role: RoleConfig, rows: Rows, first_sample: int, version: int) -> RolloutBatch | None:
        """Generate responses to this replica's part of the rows, as the settings of a role say; then it may sleep."""
        if self.engine is None:
            return None
        place = self.weights.place
        own = shard(len(rows), place.dp_rank, place.topology.dp)
        size = role.rollout.num_samples_per_step or max(1, len(own))
        parts = [own[start : start + size] for start in range(0, len(own), size)]
        batches = [self._generate(self.engine, role, rows, part, first_sample, version) for part in parts]
        self._sleep(self.engine)
        return RolloutBatch.concat(batches) if batches else None

    def _sleep(self, engine: EngineProcess) -> None:
        """Leave the devices' memory to the actor, where that is set; the engine wakes up when it is needed."""
        if level := self.role.rollout.vllm_setting(SLEEP):
            engine.ask("sleep", {"level": level})

    def _generate(
        self, engine: EngineProcess, role: RoleConfig, rows: Rows, part: range, first_sample: int, version: int
    ) -> RolloutBatch:
        chosen = [int(rows[position]) for position in part]
        prompts: list[Tensor] = [torch.tensor(prompt) for prompt in self.dataset.prompts(chosen)]
        check_prompts(prompts, role.model.vocab_size)
        k = role.rollout.n_samples_per_prompt
        request = {
            "version": version,
            "prompts": [prompt.tolist() for prompt in prompts],
            "seeds": [list(response_seeds(self._seed, first_sample + position, k)) for position in part],
            "sampling": sampling_arguments(role, stop_ids(role)),
        }
        answer = engine.ask("generate", request)
        responses = answer.objects("responses")
        logger.debug("%d prompt tokens were in the prefix cache", answer.integer("cached_tokens"))
        results = [prompt_responses(responses[start : start + k]) for start in range(0, len(responses), k)]
        return rollout_batch(prompts, chosen, results, version, k)

    def _start_engine(self, context: WorkerContext, environment: Mapping[str, str]) -> EngineProcess:
        settings, rank = self.role.rollout, self.weights.place.dp_rank
        python = interpreter_of(settings.vllm_setting(PYTHON))
        engine = EngineProcess(
            EngineSettings(
                python,
                engine_arguments(self.role, model_folder(self.role)),
                timeout_s=float(settings.vllm_setting(ANSWER_TIMEOUT_S)),
                start_timeout_s=float(settings.vllm_setting(START_TIMEOUT_S)),
                log_file=Path(context.run.loop.output_dir, "logs", f"vllm_{rank}.log"),
                environment={**host_environment(self.role), **environment} if _is_host(context) else environment,
            )
        )
        shared = self.weights.shared
        places = [[place.name, place.dtype, place.shape, place.offset] for place in shared.places]
        vllm = engine.start(places, shared.descriptor)
        logger.info("vLLM %s is ready in process %d of %s", vllm, engine.pid, python)
        self._sleep(engine)
        return engine


def prompt_responses(responses: Sequence[JsonObject]) -> PromptResponses:
    """Convert an engine's K responses to one prompt.

    Raises:
        MalformedDataError: An item is missing or of another type.
    """
    token_logps = tuple(torch.tensor(response.numbers("logps"), dtype=torch.float64) for response in responses)
    return PromptResponses(
        tuple(torch.tensor(response.integers("tokens"), dtype=torch.int32) for response in responses),
        tuple(response.boolean("ended") for response in responses),
        tuple(float(logps.sum()) for logps in token_logps),
        tuple(logps.float() for logps in token_logps),
    )


def _is_host(context: WorkerContext) -> bool:
    return context.accelerator.kind == "cpu"
