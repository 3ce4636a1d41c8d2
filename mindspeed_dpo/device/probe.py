"""Whether the device's attention is right where queries are fewer than keys, which shared prompts need: it is tried.

The vendor documents such lengths, but no one has shown the backward pass to us. A small case is compared with the
definition; whoever gets a reason back repeats prompts instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.attention import plain_segment_attention, segment_attention
from mindspeed_dpo.device.ops.kernels import kernels_for

# A prompt and two responses that see it, a prompt of one token and a response, and padding.
QUERIES, KEYS = (6, 5, 3, 1, 4, 2), (6, 11, 9, 1, 5, 2)
TOLERANCE = 3e-2
"""Of the largest value: far above the rounding of bfloat16, far below a key too many or too few."""


def prefix_problem(
    device: torch.device, dtype: torch.dtype, *, heads: int, groups: int, width: int, window: int | None = None
) -> str | None:
    """Why prefixes do not work on the device; None where they do, or where the plain form serves.

    Args:
        device: Of this process.
        dtype: Of activations.
        heads: Query heads of this rank.
        groups: Key heads of this rank.
        width: Of a head.
        window: As `segment_attention`.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = ((sum(QUERIES), heads, width), (sum(KEYS), groups, width), (sum(KEYS), groups, width))
    inputs = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    upstream = torch.randn(shapes[0], generator=draw).to(device, dtype)
    if kernels_for(inputs[0]) is None:
        return None
    expected = _values(plain_segment_attention, [one.float() for one in inputs], upstream.float(), window)
    try:
        found = _values(segment_attention, inputs, upstream, window)
    except (RuntimeError, ValueError) as error:
        return f"it fails: {error}"
    for name, ours, theirs in zip(("result", "query", "key", "value"), found, expected, strict=True):
        error_share = float((ours.float() - theirs).abs().max() / theirs.abs().max())
        if not error_share <= TOLERANCE:
            what = name if name == "result" else f"gradient of {name}"
            return f"its {what} is off by {error_share:.2g} of the largest value"
    return None


def _values(
    attention: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor, window: int | None
) -> tuple[Tensor, ...]:
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = attention(*leaves, QUERIES, KEYS, inputs[0].shape[-1] ** -0.5, window)
    return (out.detach(), *torch.autograd.grad(out, leaves, upstream))
