"""The operators in plain torch, in float32, and what they refuse: the vendor's constraints that we come near."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
Allowed = Callable[[Tensor, Tensor, int], Tensor]


class DeviceRefusal(RuntimeError):
    """The device would refuse the call, or compute something else than what was meant."""


@dataclass(frozen=True)
class Call:
    """One call: the operator, the shapes of its tensors and its other arguments."""

    operator: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any]


calls: list[Call] = []


def strict(name: str, operator: Any) -> Callable[..., Any]:
    """The operator for positional and keyword arguments of exactly the schema's kinds, noting each call."""
    schema = operator.default._schema

    def call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        kinds = {argument.name: str(argument.type) for argument in schema.arguments}
        for key, value in given.items():
            need(key in kinds, f"{name} has no argument {key}")
            _check_kind(name, key, kinds[key], value)
        tensors = [tensor for value in given.values() for tensor in _tensors_of(value)]
        options = {key: value for key, value in given.items() if not _tensors_of(value)}
        calls.append(Call(name, tuple(tuple(tensor.shape) for tensor in tensors), options))
        return operator(*args, **kwargs)

    return call


def _tensors_of(value: Any) -> list[Tensor]:
    """The tensor that an argument is, or those that it lists."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if torch.is_tensor(one)]


def _check_kind(name: str, key: str, kind: str, value: Any) -> None:
    if value is None:
        return
    if "List[Tensor]" in kind:
        if not all(map(torch.is_tensor, value)):  # the text of tensors is made only if it is needed
            raise DeviceRefusal(f"{name}: {key} must be a list of tensors, got {value!r}")
    elif "List[int]" in kind:
        plain = isinstance(value, list | tuple) and all(type(item) is int for item in value)
        need(plain, f"{name}: {key} must be a list of Python ints, got {value!r}")
    elif kind == "int":
        need(type(value) is int, f"{name}: {key} must be a Python int, got {value!r}")
    elif "Tensor" in kind:
        need(torch.is_tensor(value) and value.dtype != torch.float64, f"{name}: {key} must be a tensor, not float64")


def need(holds: bool, sentence: str) -> None:
    if not holds:
        raise DeviceRefusal(sentence)


def same_dtype(name: str, *tensors: Tensor, allowed: tuple[torch.dtype, ...] = DTYPES) -> None:
    actual = {tensor.dtype for tensor in tensors}
    need(len(actual) == 1 and actual <= set(allowed), f"{name}: dtypes {sorted(map(str, actual))}")


def npu_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    same_dtype("npu_rms_norm", input, gamma)
    need(2 <= input.dim() <= 8, f"npu_rms_norm: {input.dim()} dims")
    need(gamma.shape == input.shape[-1:], f"npu_rms_norm: gamma {tuple(gamma.shape)}")
    wide = input.float()
    inverse = (wide.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    return (wide * inverse * gamma.float()).to(input.dtype), inverse


def npu_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    same_dtype("npu_swiglu", input)
    need(input.shape[dim] % 2 == 0, f"npu_swiglu: odd dim {input.shape[dim]}")
    gate, up = input.float().chunk(2, dim)
    return (gate * gate.sigmoid() * up).to(input.dtype)


def npu_rotary_mul(
    input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    name = "npu_rotary_mul"
    same_dtype(name, input, r1, r2)
    need(rotary_mode == "half" and rotate is None, f"{name}: only mode half is used here")
    need(input.dim() == r1.dim() == r2.dim() == 4, f"{name}: 4 dims are needed")
    batch, length, heads, width = input.shape
    need(width % 2 == 0 and width < 896, f"{name}: width {width}")
    need(batch < 1000 and heads < 1000, f"{name}: B {batch} N {heads}")
    for angles in (r1, r2):
        need(tuple(angles.shape) == (1, length, 1, width), f"{name}: BSND wants angles 1S1D, got {angles.shape}")
        need(float(angles.detach().abs().max()) <= 1 + 1e-6, f"{name}: angles beyond [-1, 1]")
    first, second = input.float().chunk(2, -1)
    return (input.float() * r1 + torch.cat((-second, first), -1) * r2).to(input.dtype)


def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    need(all(one is None for one in (pse, padding_mask, prefix, sink, dropout_mask)), "only plain attention is used")
    need(keep_prob == 1.0 and inner_precise == 0 and not softmax_layout, "only plain attention is used")
    same_dtype("npu_fusion_attention", query, key, value)
    _check_layout(query, key, value, head_num, input_layout)
    q_ends, k_ends = _ends(query, actual_seq_qlen), _ends(key, actual_seq_kvlen)
    need(len(q_ends) == len(k_ends), f"{len(q_ends)} query items and {len(k_ends)} key items")
    _check_mask(atten_mask, sparse_mode)
    see_back, see_ahead = (pre_tockens, next_tockens) if sparse_mode == 4 else (2**31 - 1, 0)
    out, first_q, first_k = [], 0, 0
    for end_q, end_k in zip(q_ends, k_ends, strict=True):
        q, k, v = query[first_q:end_q].float(), key[first_k:end_k].float(), value[first_k:end_k].float()
        out.append(_attend(q, k, v, scale, sparse_mode, see_back, see_ahead))
        first_q, first_k = end_q, end_k
    empty = query.new_zeros(0, dtype=torch.float32)
    return torch.cat(out).to(query.dtype), empty, empty.clone(), empty.clone(), 0, 0, 0


def _check_layout(query: Tensor, key: Tensor, value: Tensor, head_num: int, layout: str) -> None:
    need(layout == "TND", f"layout {layout}: lengths that differ need TND")
    need(query.dim() == key.dim() == value.dim() == 3, "TND needs three dims")
    need(all(tensor.is_contiguous() for tensor in (query, key, value)), "a tensor is not contiguous")
    need(key.shape == value.shape, f"key {tuple(key.shape)} and value {tuple(value.shape)}")
    heads, width = query.shape[1:]
    need(head_num == heads and heads <= 256 and heads % key.shape[1] == 0, f"{head_num=} of {heads}/{key.shape[1]}")
    need(width == key.shape[2] and 1 <= width <= 768, f"head width {width}")


def _ends(tensor: Tensor, cumulative: list[int] | None) -> list[int]:
    if cumulative is None:
        raise DeviceRefusal("TND needs cumulative lengths")
    need(1 <= len(cumulative) <= 1024, f"{len(cumulative)} items")
    need(cumulative[0] > 0, f"cumulative lengths begin with {cumulative[0]}: no leading 0")
    need(sorted(cumulative) == cumulative and cumulative[-1] == len(tensor), f"{cumulative} for {len(tensor)} rows")
    return cumulative


def _check_mask(mask: Tensor | None, sparse_mode: int) -> None:
    if mask is None:
        raise DeviceRefusal("without a mask every key is seen, whatever sparse_mode says")
    need(sparse_mode in (3, 4), f"sparse_mode {sparse_mode}")
    need(mask.dtype in (torch.bool, torch.uint8), f"mask of {mask.dtype}")
    need(tuple(mask.shape) == (2048, 2048), f"mask of {tuple(mask.shape)}, not 2048 x 2048")
    version = (mask.data_ptr(), mask._version)
    if _right_masks.get(version) is not mask:
        need(bool(torch.equal(mask.bool(), _above_the_diagonal())), "1 hides: the mask is above the diagonal")
        _right_masks[version] = mask


_right_masks: WeakValueDictionary[tuple[int, int], Tensor] = WeakValueDictionary()
"""Masks that were compared, by address and version: comparing takes longer than the attention of a test."""


@functools.cache
def _above_the_diagonal() -> Tensor:
    """Made once: it would take longer than the attention of a test."""
    return torch.ones(2048, 2048, dtype=torch.bool).triu(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mode: int, see_back: int, see_ahead: int) -> Tensor:
    """[q, N, D] by the definition: scores, hidden ones at minus infinity, softmax, sum of values."""
    if not len(q):
        return q
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    ahead = torch.arange(len(k))[None] - (len(k) - len(q)) - torch.arange(len(q))[:, None]
    seen = (ahead <= 0) if mode == 3 else (ahead <= see_ahead) & (-ahead <= see_back)
    need(bool(seen.any(1).all()), "a query that sees no key")
    scores = torch.einsum("qnd,knd->nqk", q, k) * scale
    return torch.einsum("nqk,knd->qnd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)
