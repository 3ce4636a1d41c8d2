"""A role of a group behind the same verbs as the role itself, so that trainers do not know where it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.optimization import ReferenceConfig
from mindspeed_dpo.workers.interfaces import Logps, Pairs, Rows, joined
from mindspeed_dpo.workers.rewards.scorer import Scored


class WeightsMismatch(RuntimeError):
    """The rollout does not hold the weights that the actor has."""


class Pending(Protocol):
    """What a group was asked and has not answered yet."""

    def result(self) -> list[Any]:
        """Wait for all ranks; their answers in rank order."""


class Group(Protocol):
    """Processes that act as one and answer in rank order."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def host(self) -> str:
        """Address of the node of rank 0."""

    def build(self, role: str) -> None:
        """Build a role in every process."""

    def drop(self, role: str) -> None:
        """Drop a role in every process."""

    def call(self, role: str, verb: str, *args: Any) -> list[Any]:
        """Let a role do something in every process."""

    def start(self, role: str, verb: str, *args: Any) -> Pending:
        """As `call`, without waiting."""


class ReferenceHandle:
    """A role that knows log-probabilities."""

    def __init__(self, group: Group, role: str = "ref", settings: ReferenceConfig | None = None) -> None:
        self._group = group
        self._role = role
        self._settings = settings or ReferenceConfig()

    def log_probs(self, pairs: Pairs) -> Logps:
        """See `roles.Reference`."""
        return self.start_log_probs(pairs)()

    def start_log_probs(self, pairs: Pairs) -> Callable[[], Logps]:
        """As `log_probs`, without waiting: what is returned waits."""
        pending = self._group.start(self._role, "log_probs", _sent(pairs))
        return lambda: joined(_spoken(pending.result()))

    def start_token_log_probs(self, answers: PreferenceBatch) -> Callable[[], NDArray[np.float32]]:
        """Begin to ask for every response token's log-probability [tokens] float32, in nats; what is returned waits."""
        pending = self._group.start(self._role, "token_log_probs", answers)
        return lambda: joined(_spoken(pending.result()))

    def follow(self, done: int) -> bool:
        """See `roles.Reference`."""
        due = self._settings.sync_ref_model and done % self._settings.ref_model_sync_steps == 0
        if due:
            self._group.call(self._role, "follow", self._settings.ref_model_mixup_alpha)
        return due


class ActorHandle(ReferenceHandle):
    """The trained role."""

    def __init__(self, group: Group, role: str = "actor") -> None:
        super().__init__(group, role)

    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float]:
        """See `roles.Actor`."""
        return _only(self._group.call(self._role, "update", step, _sent(pairs), ref_logps))

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """See `roles.Actor`."""
        return _only(self._group.call(self._role, "evaluate", np.asarray(rows), ref_logps))

    def save(
        self, iteration: int, remembered: Mapping[str, Any] | None = None, ahead: RolloutBatch | None = None
    ) -> str:
        """See `roles.Actor`."""
        return str(self._group.call(self._role, "save", iteration, dict(remembered or {}), ahead)[0])

    def finish_save(self, wait: bool) -> bool:
        """See `roles.Actor`."""
        if not all(self._group.call(self._role, "is_written", wait)):
            return False
        self._group.call(self._role, "finish_save")
        return True

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """See `roles.Actor`."""
        self._group.call(self._role, "load", folder, optimizer, rng)


class RewardHandle:
    """The role that scores."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def score(self, rollouts: RolloutBatch) -> Scored:
        """See `roles.Reward`."""
        return self.start_score(rollouts)()

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        """As `score`, without waiting: what is returned waits."""
        pending = self._group.start("reward", "score", rollouts)
        return lambda: Scored.concat(_spoken(pending.result()))


class RolloutHandle:
    """The role that answers prompts, and the way on which it gets the actor's weights."""

    def __init__(self, group: Group, actor: Group, *, publishers: int, validate: bool = False) -> None:
        """Join the two, where they are different processes.

        Args:
            group: The rollout's processes, with the role built.
            actor: The actor's, with the role built.
            publishers: Pipeline stages of the actor.
            validate: Compare hashes of all weights after every transfer.
        """
        self._group, self._actor, self._validate = group, actor, validate
        self._apart = group is not actor
        if self._apart:
            address = _only(actor.call("actor", "host_link", actor.host))
            join = (address, publishers, group.size)
            _together(actor.start("actor", "open_link", *join), group.start("rollout", "open_link", *join))

    def generate(self, rows: Rows, first_sample: int) -> RolloutBatch:
        """See `roles.Rollout`."""
        return self.start_generate(rows, first_sample)()

    def start_generate(self, rows: Rows, first_sample: int) -> Callable[[], RolloutBatch]:
        """As `generate`, without waiting: what is returned waits."""
        pending = self._group.start("rollout", "generate", np.asarray(rows), first_sample)
        return lambda: RolloutBatch.concat(_spoken(pending.result()))

    def update_weights(self, version: int) -> None:
        """See `roles.Rollout`.

        Raises:
            WeightsMismatch: The hashes differ.
        """
        if self._apart:
            publish = self._actor.start("actor", "publish", version)
            _together(publish, self._group.start("rollout", "receive", version))
        else:
            self._group.call("rollout", "receive", version)
        if self._validate:
            self._compare(version)

    def _compare(self, version: int) -> None:
        trained = _spoken(self._actor.call("actor", "weights_digest"))[0]
        for held in _spoken(self._group.call("rollout", "weights_digest")):
            different = sorted(name for name in trained if held.get(name) != trained[name])
            if different:
                raise WeightsMismatch(
                    f"md5_validate: after the transfer of version {version} the rollout holds another "
                    f"{different[0]} than the actor, and {len(different) - 1} more tensors differ"
                )


def _together(*pending: Pending) -> None:
    """Wait for groups that may wait for each other."""
    for one in pending:
        one.result()


def _sent(pairs: Pairs) -> Any:
    return pairs if isinstance(pairs, PreferenceBatch) else np.asarray(pairs)


def _spoken(answers: list[Any]) -> list[Any]:
    """Answers of the replicas, in their order: one process of each speaks."""
    return [answer for answer in answers if answer is not None]


def _only(answers: list[Any]) -> Any:
    (answer,) = _spoken(answers)
    return answer
