"""Probes of device operators that are unverified: small cases are compared with the plain definitions.

One is attention with fewer queries than keys, which shared prompts need; the vendor documents such lengths but no
backward pass. The other is the fused log-probability head. If a probe fails, the caller uses the alternative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.attention import plain_segment_attention, segment_attention
from mindspeed_dpo.device.ops.fused_linear_logprobs import label_logps, plain_label_logps
from mindspeed_dpo.device.ops.kernels import kernels_for

# A prompt and two responses that share it, a prompt of one token with one response, and padding.
QUERIES, KEYS = (6, 5, 3, 1, 4, 2), (6, 11, 9, 1, 5, 2)
TOLERANCE = 3e-2
"""Relative to the largest value: well above bfloat16 rounding, well below the effect of one key more or less."""
HEAD_ROWS, SHARE_ROWS = 43, 259
"""Scored rows and size of the vocabulary shard; neither is a multiple of a block or of 8 bits."""


def prefix_problem(
    device: torch.device, dtype: torch.dtype, *, heads: int, groups: int, width: int, window: int | None = None
) -> str | None:
    """Describe why attention with prefixes fails on the device; None if it works or the plain form is used.

    Args:
        device: Device of this process.
        dtype: dtype of activations.
        heads: Query heads of this rank.
        groups: Key heads of this rank.
        width: Head dimension.
        window: Sliding window, as for `segment_attention`.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = ((sum(QUERIES), heads, width), (sum(KEYS), groups, width), (sum(KEYS), groups, width))
    inputs = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    upstream = torch.randn(shapes[0], generator=draw).to(device, dtype)
    if kernels_for(inputs[0]) is None:
        return None
    expected = _attention(plain_segment_attention, [one.float() for one in inputs], upstream.float(), window)
    try:
        actual = _attention(segment_attention, inputs, upstream, window)
    except (RuntimeError, ValueError) as error:
        return f"it fails: {error}"
    return _difference(("result", "query", "key", "value"), actual, expected)


def head_problem(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """Describe why the fused head fails on the device; None if it works.

    Labels include the first and the last token of the vocabulary shard and tokens of other shards.

    Args:
        device: Device of this process.
        dtype: dtype of activations, one that the operators support.
        width: Hidden size of the model.
    """
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, width, generator=draw) for rows in (HEAD_ROWS, SHARE_ROWS))
    # Logits that differ by a few nats, like those of a model.
    inputs = [hidden.to(device, dtype), (3 * width**-0.5 * weight).to(device, dtype)]
    labels = torch.randint(-1, SHARE_ROWS, (HEAD_ROWS,), generator=draw)
    labels[:4] = torch.tensor([-1, 0, SHARE_ROWS - 1, -1])
    upstream = torch.randn(HEAD_ROWS, generator=draw).to(device)
    labels = labels.to(device)
    expected = _gradients(lambda h, w: plain_label_logps(h, w, labels), [one.float() for one in inputs], upstream)
    try:
        actual = _gradients(lambda h, w: label_logps(h, w, labels), inputs, upstream)
    except (RuntimeError, ValueError) as error:
        return f"it fails: {error}"
    return _difference(("result", "hidden rows", "weight"), actual, expected)


def _difference(names: tuple[str, ...], actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str | None:
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        error_share = float((ours.float() - theirs).abs().max() / theirs.abs().max())
        if not error_share <= TOLERANCE:
            what = name if name == "result" else f"gradient of {name}"
            return f"its {what} is off by {error_share:.2g} of the largest value"
    return None


def _attention(
    attention: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor, window: int | None
) -> tuple[Tensor, ...]:
    scale = inputs[0].shape[-1] ** -0.5
    return _gradients(lambda *qkv: attention(*qkv, QUERIES, KEYS, scale, window), inputs, upstream)


def _gradients(operator: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    """Return the result and the gradient of each input."""
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = operator(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, upstream))
