"""Train a tiny reward model, a Llama with a score head, on the rule of rewards.py; takes seconds on the CPU.

    python examples/tiny/make_reward_model.py MODEL_FOLDER OUTPUT_FOLDER

MODEL_FOLDER is the output of make_model.py: the reward model starts from its sizes, weights and tokenizer. The result
is a Hugging Face folder that AutoModelForSequenceClassification loads.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from make_prompts import make_prompts
from rewards import FULL_LENGTH, VOWELS, vowels
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

STEPS, BATCH, LEARNING_RATE = 100, 32, 3e-3
HELD_OUT = 256
MIN_CORRELATION = 0.9
"""Required correlation with the rule on held-out responses."""


class Examples:
    """Random responses to the prompts of make_prompts.py, with their scores under the rule."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(seed)
        messages = [[{"role": "user", "content": row["prompt"]}] for row in make_prompts(64, seed)]
        texts = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in messages]
        self._prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._vowels = [tokenizer.convert_tokens_to_ids(letter) for letter in sorted(VOWELS)]

    def draw(self, count: int) -> tuple[list[list[int]], Tensor]:
        """Return the token ids of `count` prompts with responses, and their [count] float32 scores."""
        responses = [self._response() for _ in range(count)]
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        rows = [self._random.choice(self._prompts) + response for response in responses]
        return rows, torch.tensor(vowels(texts))

    def _response(self) -> list[int]:
        """Return random tokens with a random share of vowels; some responses are short, some end with a stop token."""
        share, length = self._random.random(), self._random.randint(1, FULL_LENGTH)
        length = FULL_LENGTH if self._random.random() < 0.7 else length
        other = range(1, len(self._tokenizer))
        ids = [self._random.choice(self._vowels if self._random.random() < share else other) for _ in range(length)]
        return [*ids, self._tokenizer.eos_token_id] if self._random.random() < 0.3 else ids


def scores(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    """Return the output of the score head at the last token of each row, [rows] float32."""
    width = max(map(len, rows))
    pad = model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask).logits[:, 0]


def train(model: PreTrainedModel, examples: Examples, steps: int) -> None:
    """Fit the scores to the rule by least squares."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows, targets = examples.draw(BATCH)
        loss = (scores(model, rows) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def main() -> int:
    """Train, evaluate and save; return 1 if the model did not learn the rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder written by make_model.py")
    parser.add_argument("output", type=Path, help="folder to write; files in it are replaced")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights and responses")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.float32)
    train(model, Examples(tokenizer, options.seed), options.steps)
    rows, targets = Examples(tokenizer, options.seed + 1).draw(HELD_OUT)
    with torch.no_grad():
        predicted = scores(model.eval(), rows)
    correlation = float(torch.corrcoef(torch.stack([predicted, targets]))[0, 1])
    error = float((predicted - targets).abs().mean())
    if correlation < MIN_CORRELATION:
        print(
            f"the reward model did not learn the rule: correlation {correlation:.3f}, expected {MIN_CORRELATION}",
            file=sys.stderr,
        )
        return 1
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f"{options.output}: reward model, correlation with the rule {correlation:.3f}, mean error {error:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
