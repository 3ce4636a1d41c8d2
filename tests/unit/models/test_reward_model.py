"""The reward model against Hugging Face's classifiers: one score for each response, under every layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.processes import pool
from tests.support.reward_models import hf_scores, save_tiny_reward_model, tiny_reward_model
from tests.unit.models import reward_jobs as jobs
from tests.unit.models.reward_jobs import Job

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

PROMPTS = [[5, 1, 0, 64], [7, 47, 2], [11]]
RESPONSES = [[[0, 64, 47, 3], [92], [1, 1]], [[47], [0, 0, 64], [8]], [[64, 2, 13], [12, 88, 0, 64, 47, 30], [3, 4]]]
BATCH = PreferenceBatch.from_lists(PROMPTS, RESPONSES)
SEQUENCES = [prompt + response for prompt, row in zip(PROMPTS, RESPONSES, strict=True) for response in row]
FAMILIES = ("llama", "llama_tied", "llama3_rope", "mistral", "mistral_window", "qwen2", "qwen2_tied", "qwen3")
LAYOUTS = {
    "TP2": (2, {"tp": 2}),
    "TP2 with sequence parallelism": (2, {"tp": 2, "sequence_parallel": True}),
    "TP2 with sequence parallelism, prompts repeated": (2, {"tp": 2, "sequence_parallel": True, "share_prompt": False}),
    "PP2": (2, {"pp": 2}),
    "PP4, prompts repeated": (4, {"pp": 4, "share_prompt": False}),
    "TP2 PP2": (4, {"tp": 2, "pp": 2}),
    "CP2": (2, {"cp": 2}),
    "TP2 CP2 with sequence parallelism": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}),
    "virtual stages": (2, {"pp": 2, "virtual": 1}),
}


@cache
def folder(name: str) -> Path:
    return save_tiny_reward_model(name, Path(mkdtemp(prefix="reward_models_")) / name)


@cache
def expected(name: str) -> Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(
        folder(name), dtype=torch.float32, attn_implementation="eager"
    )
    return hf_scores(model, SEQUENCES).view(3, 3)


def actual(world_size: int, job: Job) -> Tensor:
    (scores,) = [result for result in pool(world_size).run(jobs.scores, job, BATCH) if result is not None]
    return scores


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share_prompt", [True, False], ids=["shared prompts", "repeated prompts"])
def test_scores_equal_those_of_hugging_face(name: str, share_prompt: bool) -> None:
    scores = actual(1, Job(folder(name), share_prompt=share_prompt))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected(name), rtol=1e-4, atol=1e-4)
    assert expected(name).flatten().unique().numel() == 9, "scores that are all alike would prove nothing"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "qwen3"])
def test_scores_do_not_depend_on_the_layout(name: str, layout: str) -> None:
    world_size, how = LAYOUTS[layout]
    scores = actual(world_size, Job(folder(name), **how))  # type: ignore[arg-type]
    torch.testing.assert_close(scores, expected(name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layout", "job"), [(ParallelLayout(2, 1), {}), (ParallelLayout(1, 2), {"tp": 2})], ids=["TP2", "PP2"]
)
def test_a_converted_checkpoint_scores_the_same(layout: ParallelLayout, job: dict[str, int], tmp_path: Path) -> None:
    convert(ConversionRequest(folder("qwen2"), tmp_path, layout=layout, reward_model=True))
    torch.testing.assert_close(actual(job.get("tp", 1), Job(tmp_path, **job)), expected("qwen2"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("world_size", "job"), [(1, {}), (2, {"tp": 2, "sequence_parallel": True})])
def test_without_the_final_norm_the_head_reads_the_last_hidden_states(world_size: int, job: dict[str, int]) -> None:
    model = tiny_reward_model("llama")
    with torch.no_grad():
        model.model.norm = torch.nn.Identity()
    plain = hf_scores(model, SEQUENCES).view(3, 3)
    scores = actual(world_size, Job(folder("llama"), no_post_layer_norm=True, **job))  # type: ignore[arg-type]
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores, expected("llama"), atol=1e-2)


def test_a_bias_of_the_head_is_added_to_every_score(tmp_path: Path) -> None:
    convert(ConversionRequest(folder("llama"), tmp_path, layout=ParallelLayout(2, 1), reward_model=True))
    edit_rank_files(tmp_path, lambda model: model["rm_head.bias"].fill_(2.5))
    for tp in (1, 2):
        scores = actual(tp, Job(tmp_path, tp=tp))
        torch.testing.assert_close(scores, expected("llama") + 2.5, rtol=1e-4, atol=1e-4)


def test_an_output_layer_in_old_files_is_never_read(tmp_path: Path) -> None:
    convert(ConversionRequest(folder("llama"), tmp_path, reward_model=True))
    edit_rank_files(tmp_path, lambda model: model.update({"output_layer.weight": torch.full((93, 32), torch.nan)}))
    edit_rank_files(tmp_path, lambda model: model.pop("rm_head.bias"))
    torch.testing.assert_close(actual(1, Job(tmp_path)), expected("llama"), rtol=1e-4, atol=1e-4)


def edit_rank_files(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    for file in checkpoint.glob("iter_*/*/model_optim_rng.pt"):
        content = torch.load(file, weights_only=False)
        change(content["model"])
        torch.save(content, file)


def test_the_head_is_float32_and_split_along_its_input() -> None:
    for marks in pool(2).run(jobs.parameter_marks, Job(folder("qwen3"), tp=2, dtype=torch.bfloat16)):
        assert marks["rm_head.weight"] == ((1, 16), torch.float32, 1)
        assert marks["rm_head.bias"] == ((1,), torch.float32, None)
        assert marks["decoder.layers.0.mlp.linear_fc2.weight"][1:] == (torch.bfloat16, 1)
        assert "output_layer.weight" not in marks
    _, last = pool(2).run(jobs.parameter_marks, Job(folder("llama_tied"), pp=2))
    assert {"rm_head.weight", "rm_head.bias"} <= set(last) and "output_layer.weight" not in last


def test_gradients_of_scores_equal_those_of_hugging_face() -> None:
    model = tiny_reward_model("llama")
    for ids in SEQUENCES:
        model(torch.tensor([ids])).logits.sum().backward()
    for tp in (1, 2):
        for head, norm in pool(tp).run(jobs.head_gradient, Job(folder("llama"), tp=tp), BATCH):
            torch.testing.assert_close(head, model.score.weight.grad, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(norm, model.model.norm.weight.grad, rtol=1e-4, atol=1e-4)


PAIRS = PreferenceBatch.from_lists(PROMPTS, [row[:2] for row in RESPONSES])
RANKINGS = PreferenceBatch.from_lists(PROMPTS, [RESPONSES[0], [*RESPONSES[1][:2], []], RESPONSES[2]])
"""Rankings of three, two and three responses."""


@cache
def expected_gradient(of: str) -> dict[str, Tensor]:
    """Of the mean loss of pairs or of rankings, by transformers, one sequence at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder("qwen2"), dtype=torch.float32, attn_implementation="eager"
    )
    losses = []
    for prompt, row in zip(PROMPTS, RESPONSES, strict=True):
        count = 3 if of == "rankings" and len(losses) != 1 else 2
        scores = [model(torch.tensor([prompt + response])).logits[0, 0] for response in row[:count]]
        best_of_the_rest = [scores[k].exp() / sum(score.exp() for score in scores[k:]) for k in range(count - 1)]
        losses.append(-torch.stack(best_of_the_rest).log().sum())
    torch.stack(losses).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("of", ["pairs", "rankings"])
@pytest.mark.parametrize(
    ("world_size", "job"),
    [
        (1, {}),
        (2, {}),
        (2, {"tp": 2, "sequence_parallel": True}),
        (2, {"pp": 2}),
        (2, {"cp": 2, "share_prompt": False}),
        (2, {"cp": 2}),
    ],
    ids=["one process", "DP2", "TP2 with sequence parallelism", "PP2", "CP2, prompts repeated", "CP2"],
)
def test_every_gradient_of_the_loss_equals_that_of_hugging_face(
    of: str, world_size: int, job: dict[str, int], tmp_path: Path
) -> None:
    batch = PAIRS if of == "pairs" else RANKINGS
    norms = pool(world_size).run(jobs.gradient, Job(folder("qwen2"), **job), batch, tmp_path)  # type: ignore[arg-type]
    source, expected = open_weights(tmp_path), expected_gradient(of)
    assert_same_tensors(dict(source.hf_tensors(source.model_config())), expected)
    complete = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert norms == pytest.approx([float(complete)] * world_size, rel=ROUNDING)


def test_a_new_head_does_not_depend_on_the_layout() -> None:
    (whole,) = pool(1).run(jobs.new_head, Job(folder("llama")))
    for halves in (pool(2).run(jobs.new_head, Job(folder("llama"), tp=2)),):
        assert torch.equal(torch.cat(halves, 1), whole)
    assert whole.std().item() == pytest.approx(0.02, rel=0.5)
