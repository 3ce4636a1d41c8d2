"""Greedy responses, logits and log-probabilities against Hugging Face's own models, family by family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny_models import FAMILIES, MOE_FAMILIES, save_tiny_model
from tests.unit.rollout.rollout_jobs import PROMPTS, rollout, rollout_model

pytestmark = pytest.mark.numerics

# Crosses the block of 128 positions, which the shorter prompts do not.
LONG = [int(token) for token in torch.randint(93, (121,), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("family", [*FAMILIES, *MOE_FAMILIES])
def test_greedy_responses_equal_those_of_hugging_face(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    prompts = [*PROMPTS, LONG]
    generated = rollout(rollout_model(folder), prompts, top_k=1).samples.responses()
    reference = load(folder)
    assert [row[0].tolist() for row in generated] == [greedy(reference, prompt, 12) for prompt in prompts]
    assert all(torch.equal(row[0], row[1]) for row in generated)


def test_greedy_responses_with_a_repetition_penalty_equal_those_of_hugging_face(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path)
    generated = rollout(rollout_model(folder), top_k=1, repetition_penalty=1.4).samples.responses()
    expected = [greedy(load(folder), prompt, 12, repetition_penalty=1.4) for prompt in PROMPTS]
    assert [row[0].tolist() for row in generated] == expected
    assert expected != [greedy(load(folder), prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("family", ["llama_tied", "mistral_window", "qwen2", "qwen3"])
def test_logits_in_low_precision_are_close_to_hugging_face(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path, dtype=torch.bfloat16)
    model, reference = rollout_model(folder), load(folder)
    assert model.embedding.dtype == torch.bfloat16 and reference.dtype == torch.bfloat16
    prompt, following = PROMPTS[2], [3, 9, 50]
    prefix, logits = model.prefill(torch.tensor(prompt))
    cache = model.new_cache(1, 128, 2)
    cache.write(0, prefix)
    rows = [logits[0]]
    for step, token in enumerate(following):
        rows.append(model.decode([token, 0], [len(prompt) + step, 0], cache.tiles[0])[0])
    with torch.no_grad():
        expected = reference(torch.tensor([prompt + following])).logits[0, len(prompt) - 1 :].float()
        wide = reference.float()(torch.tensor([prompt + following])).logits[0, len(prompt) - 1 :]
    # Not further from the exact logits than Hugging Face's own low precision is.
    error, allowed = (torch.stack(rows) - wide).norm(), (expected - wide).norm()
    assert error < 1.5 * allowed, (error, allowed)


def test_log_probs_equal_those_of_hugging_face_whatever_the_filters(tmp_path: Path) -> None:
    folder = save_tiny_model("llama3_rope", tmp_path)
    batch = rollout(rollout_model(folder), temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2)
    reference = load(folder)
    expected = [
        [log_prob(reference, prompt, response.tolist()) for response in row]
        for prompt, row in zip(PROMPTS, batch.samples.responses(), strict=True)
    ]
    torch.testing.assert_close(batch.logps, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-4)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")


def greedy(model: PreTrainedModel, prompt: list[int], new_tokens: int, **options: float) -> list[int]:
    ids = torch.tensor([prompt])
    out: Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        top_k=1,
        eos_token_id=[13, 29],
        pad_token_id=0,
        **options,
    )
    return out[0, len(prompt) :].tolist()


def log_prob(model: PreTrainedModel, prompt: list[int], response: list[int]) -> float:
    with torch.no_grad():
        logps = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
    return float(logps[rows, torch.tensor(response)].sum())
