"""Whose tokens the reward model reads, as the driver sees it before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.workers.rewards.reward_tokenizer import check_reward_tokenizer, policy_tokenizer
from tests.support.reward_models import save_tiny_reward_model
from tests.support.tokenizers import save_tokenizer
from tests.unit.workers.rewards.reward_runs import Messages, NoColumns, reward_folder, reward_run
from tests.unit.workers.rewards.sample_rollouts import tokenizer_dir


def test_the_same_tokenizer_needs_no_word() -> None:
    check_reward_tokenizer(reward_run(reward_folder()))
    check_reward_tokenizer(reward_run(reward_folder("llama", "none"), reward_tokenizer=str(tokenizer_dir())))


def test_another_tokenizer_must_be_named() -> None:
    folder = reward_folder("llama", "chat")
    with pytest.raises(ValueError, match=rf"differs from the policy.*; set reward_tokenizer: {folder}"):
        check_reward_tokenizer(reward_run(folder))
    check_reward_tokenizer(reward_run(folder, reward_tokenizer=str(folder)))


def test_a_reward_model_without_a_tokenizer_needs_the_name_of_one() -> None:
    folder = reward_folder("llama", "none")
    with pytest.raises(ValueError, match=rf"{folder} has no tokenizer beside it.*\({tokenizer_dir()} if it is the pol"):
        check_reward_tokenizer(reward_run(folder))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"reward_tokenizer": "nowhere"}, "reward_tokenizer: nowhere has no tokenizer"),
        ({"reward_prompt_type": "qwen33"}, r"prompt_type 'qwen33' is not in .*qwen3"),
        ({"reward_prompt_type": "qwen"}, "ends turns with <|im_end|>, which the tokenizer does not have"),
    ],
)
def test_what_cannot_be_loaded_is_reported(keys: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("|", r"\|") if "im_end" in words else words):
        check_reward_tokenizer(reward_run(reward_folder(), **keys))


def test_a_tokenizer_larger_than_the_reward_model_is_reported(tmp_path: Path) -> None:
    folder = save_tiny_reward_model("llama", tmp_path / "small", vocab_size=93)
    own = save_tokenizer(tmp_path / "own")
    with pytest.raises(ValueError, match=r"own has 259 tokens, the reward model 93"):
        check_reward_tokenizer(reward_run(folder, reward_tokenizer=str(own)))


def test_a_template_needs_messages() -> None:
    run = reward_run(reward_folder(), reward_prompt_type="chat_template")
    check_reward_tokenizer(run, Messages())
    with pytest.raises(ValueError, match="reward_prompt_type=chat_template needs the messages"):
        check_reward_tokenizer(run, NoColumns())


def with_load(run: RunConfig, load: Path) -> RunConfig:
    data = replace(run.actor.data, tokenizer_name_or_path=None)
    return replace(run, actor=replace(run.actor, data=data, checkpoint=replace(run.actor.checkpoint, load=str(load))))


def test_the_policys_tokenizer_is_loaded_from_beside_its_weights(tmp_path: Path) -> None:
    run = reward_run(reward_folder())
    assert policy_tokenizer(run) == tokenizer_dir()
    assert policy_tokenizer(with_load(run, reward_folder())) == reward_folder()
    checkpoint = tmp_path / "checkpoint"
    save_tokenizer(checkpoint / "hf")
    (checkpoint / "hf/config.json").write_text("{}")
    assert policy_tokenizer(with_load(run, checkpoint)) == checkpoint / "hf"
    with pytest.raises(ValueError, match="set the policy's tokenizer"):
        policy_tokenizer(with_load(run, tmp_path))


def test_functions_and_judges_read_text_and_need_no_tokenizer_of_their_own() -> None:
    run = reward_run(reward_folder("llama", "none"), reward_functions=("a.b",))
    check_reward_tokenizer(run)
    check_reward_tokenizer(replace(run, reward=None))
