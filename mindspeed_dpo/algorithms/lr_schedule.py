"""Learning rate as a pure function of the optimizer step. Setting it on an optimizer is left to the engine.

The position is counted in samples, because an iteration may take several optimizer steps: whatever their number, the
decay is complete exactly when the last iteration is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

# Share of the way from the floor to the peak that is left, by the share x in [0, 1] of the decay that is done.
DECAY_STYLES: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 1.0,
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: (1.0 + math.cos(math.pi * x)) / 2,
}


@dataclass(frozen=True)
class LearningRateSettings:
    """Warm-up from 0 to the peak, then decay to the floor.

    Attributes:
        style: A name of `DECAY_STYLES`.
        lr: Peak learning rate.
        min_lr: Floor after the decay; without effect on "constant".
        warmup_samples: Pairs over which the rate rises; may be fractional, as a share of the decay.
        decay_samples: Pairs after which the decay is complete, warm-up included.
        samples_per_iteration: Pairs by which one iteration advances the position.
        steps_per_iteration: Optimizer steps that share the samples of an iteration.

    Raises:
        ValueError: A setting is out of range; all problems at once.
    """

    style: str
    lr: float
    min_lr: float
    warmup_samples: float
    decay_samples: int
    samples_per_iteration: int
    steps_per_iteration: int = 1

    def __post_init__(self) -> None:
        problems = []
        if self.style not in DECAY_STYLES:
            nearest = difflib.get_close_matches(self.style, DECAY_STYLES, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            problems.append(
                f"lr_decay_style={self.style!r} is not known: choose one of {', '.join(DECAY_STYLES)}{hint}"
            )
        if not (math.isfinite(self.lr) and self.lr >= 0):
            problems.append(f"lr={self.lr} must be a number of at least 0")
        if not 0 <= self.min_lr <= self.lr:
            problems.append(f"min_lr={self.min_lr} must be between 0 and lr={self.lr}")
        if min(self.decay_samples, self.samples_per_iteration, self.steps_per_iteration) <= 0:
            problems.append("lr_decay_iters, global_batch_size and the steps per iteration must be greater than 0")
        elif not 0 <= self.warmup_samples < self.decay_samples:
            share = f"{self.warmup_samples:g} of {self.decay_samples:g} samples"
            problems.append(
                f"the learning-rate warm-up takes {share}: it must end before lr_decay_iters, so shorten it"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def for_run(
        cls,
        *,
        style: str,
        lr: float,
        min_lr: float,
        train_iters: int,
        global_batch_size: int,
        lr_decay_iters: int | None = None,
        lr_warmup_fraction: float | None = None,
        lr_warmup_iters: int = 0,
        steps_per_iteration: int = 1,
    ) -> LearningRateSettings:
        """From the keys of a run, counted in iterations, to samples.

        Args:
            style: lr_decay_style.
            lr: Peak learning rate.
            min_lr: Floor.
            train_iters: Iterations of the run.
            global_batch_size: Pairs per iteration.
            lr_decay_iters: Iterations after which the decay is complete; None for `train_iters`.
            lr_warmup_fraction: Share of the decay length spent on warm-up; excludes `lr_warmup_iters`.
            lr_warmup_iters: Iterations of warm-up.
            steps_per_iteration: Optimizer steps per iteration; they share its samples.

        Raises:
            ValueError: Both warm-up lengths are given, or a setting is out of range.
        """
        if lr_warmup_fraction and lr_warmup_iters:
            raise ValueError(
                f"lr_warmup_fraction={lr_warmup_fraction} and lr_warmup_iters={lr_warmup_iters} both set the warm-up: "
                "give one of them"
            )
        decay_samples = (train_iters if lr_decay_iters is None else lr_decay_iters) * global_batch_size
        warmup_samples = (lr_warmup_fraction or 0.0) * decay_samples or lr_warmup_iters * global_batch_size
        return cls(style, lr, min_lr, warmup_samples, decay_samples, global_batch_size, steps_per_iteration)


def lr_at(step: int, settings: LearningRateSettings) -> float:
    """Learning rate that optimizer step `step`, counted from 0, uses.

    With warm-up, step 0 uses 0: it moves no weight, but the optimizer's moments take its gradient.
    """
    # One division, so that the position is exact wherever it is a whole number of samples.
    position = step * settings.samples_per_iteration / settings.steps_per_iteration
    if position < settings.warmup_samples:
        return settings.lr * position / settings.warmup_samples
    done = (position - settings.warmup_samples) / (settings.decay_samples - settings.warmup_samples)
    left = DECAY_STYLES[settings.style](min(done, 1.0))
    return settings.min_lr + left * (settings.lr - settings.min_lr)


def beta_at(step: int, num_steps: int, *, start: float, end: float | None, style: str) -> float:
    """The pull towards the reference of step `step` of `num_steps`, both counted in iterations, per nat.

    It is `start` at the first step and `end` at the last; with style "constant", or no end, it stays.
    """
    if end is None:
        return start
    left = DECAY_STYLES[style](step / max(num_steps - 1, 1))
    return end + left * (start - end)
