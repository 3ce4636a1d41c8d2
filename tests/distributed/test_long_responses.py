"""Log-probabilities of responses of 1 to 16,000 tokens against Hugging Face's model in float64, under every layout.

In float32 a token's own log-probability is rounded at about 1e-6 nats; of a long response that is next to nothing, and
what is left is the error of the sum over its tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from mindspeed_dpo.batches import PreferenceBatch
from tests.support.jobs import Job, scores_job
from tests.support.processes import pool

pytestmark = pytest.mark.distributed

PROMPTS, LENGTHS = (5, 3), ((1, 16_000), (83, 1_000))
CONFIG = LlamaConfig(
    vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=16_384, initializer_range=0.3,
)  # fmt: skip
LAYOUTS = {
    "prompts shared in one row": (1, Job(Path(), micro_batch_size=2)),
    "prompts repeated in one row": (1, Job(Path(), micro_batch_size=2, share_prompt=False, multiple_of=64)),
    "TP2": (2, Job(Path(), tp=2, sequence_parallel=True, share_prompt=False)),
    "PP2": (2, Job(Path(), pp=2, micro_batch_size=1, share_prompt=False)),
    "CP2": (2, Job(Path(), cp=2, share_prompt=False)),
}


def batch() -> PreferenceBatch:
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(CONFIG.vocab_size, (count,), generator=generator).tolist()

    return PreferenceBatch.from_lists([some(n) for n in PROMPTS], [[some(n) for n in row] for row in LENGTHS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights in float32."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("long")
    AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> Tensor:
    """[P, 2] float64 of the same weights, computed in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    pairs = batch()

    def score(prompt: Tensor, response: Tensor) -> Tensor:
        tokens = torch.cat((prompt, response)).long()
        logps = model(tokens[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return logps.gather(1, response.long()[:, None]).sum()

    with torch.no_grad():
        rows = zip(pairs.prompts(), pairs.responses(), strict=True)
        return torch.stack([torch.stack([score(prompt, one) for one in responses]) for prompt, responses in rows])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_error_does_not_grow_with_the_response(layout: str, folder: Path, expected: Tensor) -> None:
    world_size, job = LAYOUTS[layout]
    scores = pool(world_size).run(scores_job, replace(job, weights=folder), batch())
    (actual,) = [one for one in scores if one is not None]
    assert actual.dtype == torch.float64
    error = (actual - expected).abs()
    assert bool((error <= 1e-6 * expected.abs() + 2e-6).all()), error
    assert expected.min() < -50_000
