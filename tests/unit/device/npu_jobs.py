"""Jobs for the processes of a pool on the reference NPU; each returns plain values."""

from __future__ import annotations

import copy
import importlib
import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

SEGMENTS = ((4, 3, 1), (4, 7, 1))


def start_up() -> dict[str, Any]:
    """What the adaptor saw, and what remains of its side effects."""
    seen = dict(sys.modules["mindspeed.megatron_adaptor"].seen)
    return {
        **seen,
        "devices": sys.modules["torch_npu"].npu.devices_set,
        "root level": logging.getLogger().level,
        "root handlers": len(logging.getLogger().handlers),
        "once filter": any(entry[0] == "once" and entry[2] is Warning for entry in warnings.filters),
        "backend": dist.get_backend_config(),
    }


def collectives() -> dict[str, Any]:
    """A keyword, float64, and float64 without the guard."""
    report: dict[str, Any] = {}
    ones = torch.ones(3)
    dist.all_reduce(tensor=ones)
    report["keyword"] = ones.tolist()
    doubles = torch.ones(3, dtype=torch.float64)
    for name in ("all_reduce", "broadcast"):
        try:
            getattr(dist, name)(doubles, 0) if name == "broadcast" else dist.all_reduce(doubles)
        except TypeError as error:
            report[name] = str(error)
    guard = importlib.import_module("mindspeed_dpo.device.collective_guards")
    for name in guard.GUARDED:
        setattr(dist, name, getattr(dist, name).guarded_from)
    try:
        dist.all_reduce(doubles)
        report["unguarded float64"] = doubles.tolist()
        try:
            dist.all_reduce(tensor=ones)
        except IndexError:
            report["unguarded keyword"] = "IndexError"
    finally:
        guard.guard_collectives()
    return report


def library_side_effects() -> dict[str, str]:
    """What the reference refuses that plain torch and megatron-core take: the kind of error, or that there is none."""
    spec = importlib.import_module("mindspeed_dpo.models.layer_spec")
    topology = importlib.import_module("mindspeed_dpo.parallel.topology").Topology
    model = importlib.import_module("tests.unit.engine.engine_jobs").MODEL
    config = spec.transformer_config(model, spec.Execution(topology()))
    table = torch.zeros(3, 2)
    table.t().view(6).fill_(1.0)
    tried: dict[str, Callable[[], Any]] = {
        "gather": lambda: dist.gather(torch.ones(1), [torch.ones(1)]),
        "mean": lambda: dist.all_reduce(torch.ones(1), dist.ReduceOp.AVG),
        "pickled config": lambda: pickle.dumps(config),
        "copied config": lambda: copy.deepcopy(config),
        "written through a view": lambda: None if table.any() else _lost(),
    }
    return {name: _error_of(attempt) for name, attempt in tried.items()}


def _error_of(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except (RuntimeError, pickle.PicklingError) as error:
        return type(error).__name__
    return "none"


def _lost() -> None:
    raise RuntimeError("the table is as it was")


def operators() -> dict[str, float]:
    """Largest difference of each operator and its gradients from its definition, over those of the definition."""
    home = "mindspeed_dpo.device.ops"
    norm, rotary, gate, attention, grouped = (importlib.import_module(f"{home}.{name}") for name in OPERATORS)
    torch.manual_seed(0)
    x, weight = torch.randn(8, 2, 16), torch.randn(16)
    angle = torch.randn(8, 8)
    both = torch.cat((angle, angle), -1)
    qkv = torch.randn(8, 4, 16), torch.randn(12, 2, 16), torch.randn(12, 2, 16)
    gated = (norm.rms_norm, norm.plain_rms_norm), (gate.swiglu, gate.plain_swiglu)
    actual = {
        "rms_norm": _difference(*gated[0], (x, weight), 1e-5),
        "swiglu": _difference(*gated[1], (x,)),
        "rotate": _difference(rotary.rotate, rotary.plain_rotate, (x,), both.cos(), both.sin()),
    }
    runs, matrices, counts = torch.randn(7, 4), torch.randn(3, 6, 4), torch.tensor([4, 0, 3])
    forms = grouped.grouped_linear, grouped.plain_grouped_linear
    actual["grouped_linear"] = _difference(*forms, (runs, matrices), counts)
    for window in (None, 2):
        forms = attention.segment_attention, attention.plain_segment_attention
        actual[f"attention, window {window}"] = _difference(*forms, qkv, *SEGMENTS, 0.3, window)
    return actual


OPERATORS = ("rms_norm", "rotary", "swiglu", "attention", "grouped_linear")


def _difference(ours: Any, plain: Any, leaves: tuple[torch.Tensor, ...], *rest: Any) -> float:
    results = []
    for operator in (ours, plain):
        copies = [leaf.clone().requires_grad_() for leaf in leaves]
        out = operator(*copies, *rest)
        results.append([out, *torch.autograd.grad(out, copies, torch.linspace(-1, 1, out.numel()).view(out.shape))])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


def refusals() -> dict[str, str]:
    """What our limits say, and what the reference device says of calls that ours never make."""
    ops = importlib.import_module("mindspeed_dpo.device.ops")
    library = sys.modules["torch_npu"]
    mask = importlib.import_module("mindspeed_dpo.device.ops.attention").causal_mask(torch.device("cpu"))
    rows = torch.randn(4, 2, 8)

    def raw(*, mask: Any = mask, layout: str = "TND", lengths: Any = (2, 4), mode: int = 3, heads: Any = 2) -> Any:
        lengths = list(lengths) if isinstance(lengths, tuple) else lengths
        options = {"actual_seq_qlen": lengths, "actual_seq_kvlen": lengths, "sparse_mode": mode}
        return library.npu_fusion_attention(rows, rows, rows, heads, layout, atten_mask=mask, scale=1.0, **options)

    wide = torch.randn(2, 1, 770)
    many = [1] * 1025
    ours = {
        "float64": lambda: ops.swiglu(torch.zeros(2, 4, dtype=torch.float64)),
        "two dtypes": lambda: ops.rms_norm(torch.zeros(2, 4), torch.ones(4, dtype=torch.bfloat16), 1e-5),
        "width": lambda: ops.segment_attention(wide, wide, wide, [2], [2], 1.0),
        "heads": lambda: ops.segment_attention(*[torch.zeros(1, 257, 2)] * 3, [1], [1], 1.0),
        "segments": lambda: ops.segment_attention(*[torch.zeros(1025, 1, 2)] * 3, many, many, 1.0),
        "empty first": lambda: ops.segment_attention(rows, rows, rows, [0, 4], [0, 4], 1.0),
        "more queries": lambda: ops.segment_attention(rows, rows[:3], rows[:3], [4], [3], 1.0),
        "lengths": lambda: ops.segment_attention(rows, rows, rows, [3], [4], 1.0),
        "odd gate": lambda: ops.swiglu(torch.zeros(2, 3)),
        "rotary width": lambda: ops.rotate(torch.zeros(1, 1, 896), torch.ones(1, 896), torch.zeros(1, 896)),
    }
    device = {
        "layout": lambda: raw(layout="BSH"),
        "leading 0": lambda: raw(lengths=(0, 2, 4)),
        "tensor lengths": lambda: raw(lengths=torch.tensor([2, 4])),
        "lengths of tensors": lambda: raw(lengths=[torch.tensor(2), torch.tensor(4)]),
        "no mask": lambda: raw(mask=None),
        "small mask": lambda: raw(mask=mask[:4, :4].contiguous()),
        "float mask": lambda: raw(mask=mask.float()),
        "turned mask": lambda: raw(mask=~mask),
        "head_num tensor": lambda: raw(heads=torch.tensor(2)),
        "misspelt": lambda: library.npu_fusion_attention(rows, rows, rows, 2, "TND", pre_tokens=1),
        "1-D norm": lambda: library.npu_rms_norm(torch.zeros(4), torch.ones(4), 1e-5),
    }
    return {**_said(ours, "OperatorLimit"), **_said(device, "DeviceRefusal"), "uint8 mask": _passes(raw, mask)}


def _passes(raw: Any, mask: torch.Tensor) -> str:
    raw(mask=mask.to(torch.uint8))
    return "taken"


def _said(cases: dict[str, Any], kind: str) -> dict[str, str]:
    report = {}
    for name, call in cases.items():
        try:
            call()
            report[name] = "taken"
        except Exception as error:  # the kind is what is compared
            report[name] = str(error) if type(error).__name__ == kind else repr(error)
    return report


def probed(fault: str | None) -> str | None:
    """The probe's verdict where the device's attention has a fault."""
    library = sys.modules["torch_npu"]
    probe = importlib.import_module("mindspeed_dpo.device.operator_probe")
    original = library.npu_fusion_attention
    faulty = {
        "refuses": _refuses,
        "aligns left": _aligned_left(original),
        "incorrect gradient": _backward_off(original),
    }
    library.npu_fusion_attention = faulty.get(fault or "", original)
    try:
        return probe.prefix_problem(torch.device("cpu"), torch.float32, heads=4, groups=2, width=8)
    finally:
        library.npu_fusion_attention = original


def _refuses(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("Sq and Skv must be equal")


def _aligned_left(original: Any) -> Any:
    """As sparse_mode 2 would: query i sees keys up to i."""
    plain = importlib.import_module("mindspeed_dpo.device.ops.attention").plain_segment_attention

    def attention(
        q: Any, k: Any, v: Any, *_args: Any, actual_seq_qlen: Any, actual_seq_kvlen: Any, scale: float, **_: Any
    ) -> Any:
        out, a, b = [], 0, 0
        for end, last in zip(actual_seq_qlen, actual_seq_kvlen, strict=True):
            n = end - a
            out.append(plain(q[a:end], k[b : b + n], v[b : b + n], [n], [n], scale))
            a, b = end, last
        return (torch.cat(out),)

    return attention


def _backward_off(original: Any) -> Any:
    def attention(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        # The same values, but keys get no gradient.
        return original(q, k.detach() + 0 * k, v, *args, **kwargs)

    return attention
