"""The model against Hugging Face's, as the independent definition: logits, log-probabilities and every gradient.

Weights are random and tiny, one model for each family and each kind of rotary scaling. The responses contain token 0
and the first id of every vocabulary shard, which predecessors dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, PreTrainedModel

from mindspeed_dpo.batches import PreferenceBatch
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.jobs import Job, gradient_job, logits_job, read_tensors, scores_job
from tests.support.processes import pool
from tests.support.tiny_models import FAMILIES, save_tiny_model

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

# With a vocabulary of 93 the padded shards of TP2 begin at 0 and 64, or at 47 without padding to 128.
PROMPTS = [[5, 1, 0, 64], [7, 47, 2], [9, 9, 31, 4, 60, 3], [11]]
RESPONSES = [
    [[0, 64, 47, 3], [92, 1]],
    [[47], [0, 0, 64]],
    [[8, 64, 20, 33, 2], [47, 8, 1, 0]],
    [[64, 2, 13], [12, 88, 0, 64, 47, 30]],
]


def test_batch() -> PreferenceBatch:
    references = torch.tensor([[-20.0, -11.0], [-4.5, -15.0], [-22.0, -18.5], [-13.0, -29.0]])
    return PreferenceBatch.from_lists(PROMPTS, RESPONSES).with_ref_logps(references)


test_batch.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tp", [1, 2])
def test_logits_equal_those_of_hugging_face(family: str, tp: int, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    model = load(folder)
    batch = PreferenceBatch.from_lists(PROMPTS, RESPONSES)
    (logits,) = [r for r in pool(tp).run(logits_job, Job(folder, tp=tp, share_prompt=False), batch) if r is not None]
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([p + r])).logits[0] for p, r in sequences()])
    assert_same_tensors({"logits": logits}, {"logits": expected})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share_prompt", [True, False])
def test_log_probs_of_responses_equal_those_of_hugging_face(family: str, share_prompt: bool, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    with torch.no_grad():
        expected = hf_log_probs(load(folder))
    (scores,) = pool(1).run(scores_job, Job(folder, share_prompt=share_prompt), test_batch())
    torch.testing.assert_close(scores, expected.double(), rtol=ROUNDING, atol=ROUNDING)


LAYOUTS = {
    "one process": (1, Job(Path())),
    "one pair per micro-batch": (1, Job(Path(), micro_batch_size=1)),
    "prompts repeated": (1, Job(Path(), share_prompt=False)),
    "padded rows": (1, Job(Path(), multiple_of=16)),
    "TP2": (2, Job(Path(), tp=2)),
    "TP2 with sequence parallelism": (2, Job(Path(), tp=2, sequence_parallel=True)),
    "TP4 with sequence parallelism": (4, Job(Path(), tp=4, sequence_parallel=True)),
    "PP2": (2, Job(Path(), pp=2, micro_batch_size=1)),
    "PP4": (4, Job(Path(), pp=4, micro_batch_size=1)),
    "DP2": (2, Job(Path())),
    "DP2 with unequal micro-batches": (2, Job(Path(), micro_batch_size=3)),
    "DP2 with overlap": (2, Job(Path(), micro_batch_size=1, options={"overlap_grad_reduce": True})),
    "TP2 PP2 with sequence parallelism": (4, Job(Path(), tp=2, pp=2, sequence_parallel=True, micro_batch_size=1)),
    "TP2 DP2": (4, Job(Path(), tp=2)),
    "full recompute under TP2 PP2": (4, Job(Path(), tp=2, pp=2, micro_batch_size=1, recompute="full")),
    "selective recompute": (1, Job(Path(), recompute="selective")),
    "CP2": (2, Job(Path(), cp=2)),
    "CP4 with prompts repeated": (4, Job(Path(), cp=4, share_prompt=False)),
    "CP2 with one pair per micro-batch and full recompute": (
        2,
        Job(Path(), cp=2, micro_batch_size=1, recompute="full"),
    ),
    "TP2 CP2 with sequence parallelism": (4, Job(Path(), tp=2, cp=2, sequence_parallel=True)),
    "PP2 CP2 with selective recompute": (4, Job(Path(), pp=2, cp=2, micro_batch_size=1, recompute="selective")),
    "CP2 DP2 with overlap": (
        4,
        Job(Path(), cp=2, micro_batch_size=3, options={"overlap_grad_reduce": True}),
    ),
    "virtual stages": (2, Job(Path(), pp=2, virtual=1, micro_batch_size=1)),
    "virtual stages with one micro-batch and full recompute": (
        2,
        Job(Path(), pp=2, virtual=1, micro_batch_size=4, recompute="full"),
    ),
    "virtual stages under TP2 with sequence parallelism": (
        4,
        Job(Path(), tp=2, pp=2, virtual=1, sequence_parallel=True, micro_batch_size=1),
    ),
    "virtual stages under CP2": (4, Job(Path(), cp=2, pp=2, virtual=1, share_prompt=False, micro_batch_size=2)),
    "virtual stages under DP2 with overlap": (
        4,
        Job(Path(), pp=2, virtual=1, micro_batch_size=1, options={"overlap_grad_reduce": True}),
    ),
}


@pytest.fixture(scope="module")
def differentiated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Tensor]]]:
    """From a family to a folder of its weights and their gradient, computed once for all layouts."""

    @functools.cache
    def of(family: str) -> tuple[Path, dict[str, Tensor]]:
        folder = save_tiny_model(family, tmp_path_factory.mktemp(family))
        return folder, hf_gradients(load(folder))

    return of


SPLITS = ("one process", "TP2 with sequence parallelism", "TP4 with sequence parallelism", "PP2", "CP2")
"""Layouts under which families could differ: those that split heads, biases and norms; `llama_tied` meets all."""


@pytest.mark.parametrize(
    ("family", "layout"),
    [("llama_tied", layout) for layout in LAYOUTS] + [(f, layout) for f in ("qwen2", "qwen3") for layout in SPLITS],
)
def test_every_gradient_equals_that_of_hugging_face(
    family: str, layout: str, differentiated: Callable[[str], tuple[Path, dict[str, Tensor]]], tmp_path: Path
) -> None:
    folder, expected = differentiated(family)
    world_size, job = LAYOUTS[layout]
    job = Job(**{**vars(job), "weights": folder})
    norms = pool(world_size).run(gradient_job, job, test_batch(), tmp_path / "gradient")
    actual = read_tensors(tmp_path / "gradient")
    assert_same_tensors(actual, expected)
    complete = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert norms == pytest.approx([float(complete)] * world_size, rel=ROUNDING)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def sequences() -> list[tuple[list[int], list[int]]]:
    return [(prompt, response) for prompt, row in zip(PROMPTS, RESPONSES, strict=True) for response in row]


def hf_log_probs(model: PreTrainedModel) -> Tensor:
    """[P, 2], one sequence at a time, from the full logits."""
    sums = []
    for prompt, response in sequences():
        logps = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        rows = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        sums.append(logps[rows, torch.tensor(response)].sum())
    return torch.stack(sums).view(-1, 2)


def hf_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """Gradient of the mean sigmoid loss (equation 7 of arXiv:2305.18290), written out once more."""
    ratios = hf_log_probs(model) - test_batch().ref_logps
    (-logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
