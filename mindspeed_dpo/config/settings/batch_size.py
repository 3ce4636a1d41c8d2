"""Batch sizes: pairs of an optimizer step and of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspeed_dpo.config.settings.setting import at_least, setting


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Numbers of pairs or tokens per optimizer step and per forward pass."""

    global_batch_size: int = setting(
        derived="micro_batch_size x data-parallel size; required with micro_batch_tokens",
        help="Pairs per optimizer step over all devices; online: prompts per iteration.",
        unit="pairs",
        check=at_least(1),
        shared=True,
    )
    micro_batch_size: int | None = setting(
        derived="1, or null with micro_batch_tokens",
        help="Pairs per forward and backward pass of one replica.",
        unit="pairs",
        check=at_least(1),
    )
    micro_batch_tokens: int | None = setting(
        None,
        help="Maximum tokens per forward and backward pass of one replica, an alternative to micro_batch_size. A pass "
        "holds complete pairs, a shared prompt counts once, and a longer pair is a pass of its own.",
        unit="tokens",
        check=at_least(1),
    )
    pad_to_multiple_of: int = setting(
        1,
        help="Pad the tokens of each pass to a multiple of this, so that a device sees fewer distinct lengths.",
        unit="tokens",
        check=at_least(1),
    )
    share_prompt: bool = setting(True, help="Compute the prompt once for both responses of a pair.")
    probe_share_prompt: bool = setting(
        True,
        help="On NPU, test attention over a shared prompt at start-up and repeat prompts if the results differ; false "
        "skips the test.",
    )

    def filled(self, global_batch_size: int) -> BatchConfig:
        """Return the settings with derived values: the given batch size, and a micro-batch of 1 pair by default."""
        size = self.micro_batch_size or (None if self.micro_batch_tokens else 1)
        return replace(self, global_batch_size=global_batch_size, micro_batch_size=size)
