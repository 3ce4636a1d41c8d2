"""What tests of online runs start from: model, prompts and reward model, made by the scripts of the example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import preprocess_data
from tests.support.commands import run_here

RULE = "examples.tiny.rewards.vowels"


@dataclass(frozen=True)
class OnlineInputs:
    """Inputs of an online run.

    Attributes:
        model: Hugging Face folder with random weights and a tokenizer.
        prompts: Prefix of the prompts as tokens.
    """

    model: Path
    prompts: Path

    @property
    def keys(self) -> dict[str, object]:
        """Settings that name them."""
        return {"tokenizer_name_or_path": self.model, "load": self.model, "data_path": self.prompts}


def online_inputs(folder: Path) -> OnlineInputs:
    """Make the example's model and prompts, in this process."""
    inputs = OnlineInputs(folder / "hf", folder / "tokens" / "prompts")
    run_here("examples/tiny/make_model.py", inputs.model)
    run_here("examples/tiny/make_prompts.py", folder / "prompts.jsonl")
    arguments = [
        f"--input={folder / 'prompts.jsonl'}",
        f"--output-prefix={inputs.prompts}",
        "--handler-name=PPOAlpacaStyleInstructionHandler",
        '--map-keys={"prompt": "prompt", "query": ""}',
        "--prompt-type=chat_template",
        "--tokenizer-type=PretrainedFromHF",
        f"--tokenizer-name-or-path={inputs.model}",
    ]
    assert preprocess_data.main(arguments) == 0
    return inputs


def reward_model(inputs: OnlineInputs, folder: Path) -> Path:
    """Train the example's reward model on the rule."""
    run_here("examples/tiny/make_reward_model.py", inputs.model, folder)
    return folder
