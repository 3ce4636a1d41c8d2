"""Load a reward model with plain transformers and compare its preferences with the rule of rewards.py on new pairs.

python examples/tiny/try_reward_model.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse
import sys

import torch
from make_rule_pairs import make_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

NEW_SEED, COUNT = 99, 100
MIN_ACCURACY = 0.9


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> float:
    """Return the score of a response, read at the last token of the dialogue."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
    with torch.no_grad():
        return float(model(torch.tensor([ids])).logits[0, 0])


def main() -> int:
    """Print the share of new pairs that the model orders as the rule does; return 1 if it is low."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hugging Face folder with weights, config and tokenizer")
    folder = parser.parse_args().model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = make_pairs(COUNT, NEW_SEED)
    right = sum(
        score(model, tokenizer, pair["prompt"], pair["chosen"])
        > score(model, tokenizer, pair["prompt"], pair["rejected"])
        for pair in pairs
    )
    print(f"{type(model).__name__}: {right} of {COUNT} new pairs are ordered as by the rule")
    return 0 if right >= MIN_ACCURACY * COUNT else 1


if __name__ == "__main__":
    sys.exit(main())
