"""Learning rate and beta as pure functions of the step. Setting the rate on an optimizer is left to the engine.

The position is counted in samples, because an iteration may have several optimizer steps: whatever their number, the
decay completes exactly with the last iteration.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

# Fraction of the way from minimum to peak that remains, by the completed fraction x in [0, 1] of the decay.
DECAY_STYLES: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 1.0,
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: (1.0 + math.cos(math.pi * x)) / 2,
}


@dataclass(frozen=True)
class LearningRateSettings:
    """Warm-up from 0 to the peak, then decay to the minimum.

    Example: 10 iterations of 32 pairs, the first of them warm-up.

        LearningRateSettings("cosine", 1e-6, 1e-7, warmup_samples=32, decay_samples=320, samples_per_iteration=32)

    Attributes:
        style: A name of `DECAY_STYLES`.
        lr: Peak learning rate.
        min_lr: Minimum after the decay; has no effect on "constant".
        warmup_samples: Pairs over which the rate rises; may be fractional.
        decay_samples: Pairs after which the decay is complete, warm-up included.
        samples_per_iteration: Pairs of one iteration.
        steps_per_iteration: Optimizer steps of one iteration, which share its samples.

    Raises:
        ValueError: Settings are out of range; the message lists all problems.
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
            problems.append(f"lr_decay_style={self.style!r} is unknown: choose one of {', '.join(DECAY_STYLES)}{hint}")
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
        """Convert the settings of a run, counted in iterations, to samples.

        Args:
            style: lr_decay_style.
            lr: Peak learning rate.
            min_lr: Minimum learning rate.
            train_iters: Iterations of the run.
            global_batch_size: Pairs per iteration.
            lr_decay_iters: Iterations after which the decay is complete; None for `train_iters`.
            lr_warmup_fraction: Fraction of the decay length spent on warm-up; excludes `lr_warmup_iters`.
            lr_warmup_iters: Iterations of warm-up.
            steps_per_iteration: Optimizer steps per iteration, which share its samples.

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
    """Return the learning rate of optimizer step `step`, counted from 0.

    With warm-up, step 0 has rate 0: it changes no weight, but the optimizer's moments include its gradient.
    """
    # One division, so that the position is exact wherever it is an integral number of samples.
    position = step * settings.samples_per_iteration / settings.steps_per_iteration
    if position < settings.warmup_samples:
        return settings.lr * position / settings.warmup_samples
    done = (position - settings.warmup_samples) / (settings.decay_samples - settings.warmup_samples)
    left = DECAY_STYLES[settings.style](min(done, 1.0))
    return settings.min_lr + left * (settings.lr - settings.min_lr)


def beta_at(step: int, num_steps: int, *, start: float, end: float | None, style: str) -> float:
    """Return beta, the strength of the regularisation, of iteration `step` of `num_steps`, per nat.

    It is `start` at the first iteration and `end` at the last; with style "constant", or without `end`, it is constant.
    """
    if end is None:
        return start
    left = DECAY_STYLES[style](step / max(num_steps - 1, 1))
    return end + left * (start - end)
