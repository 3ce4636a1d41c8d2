"""A command with a model and data is an ordinary configuration: architecture, tokens, steps and defaults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mindspeed_dpo.autoconfig.command_words import parse_words
from mindspeed_dpo.autoconfig.one_command import configure
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.weights.hf.hf_config import read_model_config
from tests.support.conversions import convert_to_mcore
from tests.unit.autoconfig.quick_inputs import PAIRS, model_folder, write_rows


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configured(*words: str, shown: list[str] | None = None) -> RunConfig:
    return check(configure(parse_words(words), (shown if shown is not None else []).append))


def test_a_model_and_data_are_all_that_a_run_needs(tmp_path: Path) -> None:
    shown: list[str] = []
    run = configured(f"model={model_folder()}", f"data={write_rows(tmp_path / 'pairs.jsonl')}", shown=shown)
    assert run.actor.model == read_model_config(model_folder())
    assert run.loop.stage == "dpo" and run.pools == {"actor_rollout": (1,)} and run.name == "hf_dpo"
    assert run.loop.train_iters == 3, "70 pairs in batches of 32, rounded up"
    assert run.actor.checkpoint.export_hf and run.actor.optimizer.lr == 1e-6
    assert run.actor.data.seq_length == run.actor.model.max_position_embeddings
    text = "\n".join(shown)
    assert PAIRS[0]["prompt"] in text and PAIRS[0]["rejected"] in text and "70 of 70 rows" in text
    assert run.origins["actor.num_layers"].source == f"config of {model_folder()}"


def test_what_is_written_out_is_the_same_run(tmp_path: Path) -> None:
    from mindspeed_dpo.config.load import load_run

    run = configured(f"model={model_folder()}", f"data={write_rows(tmp_path / 'pairs.jsonl')}", "output_dir=out")
    (tmp_path / "again.yaml").write_text(run.as_yaml(), encoding="utf-8")
    assert load_run("again", config_dir=tmp_path) == run


def test_adapters_and_evaluation_are_one_word_each(tmp_path: Path) -> None:
    data, held_out = write_rows(tmp_path / "pairs.jsonl"), write_rows(tmp_path / "held_out.jsonl", PAIRS[:9])
    words = (f"model={model_folder()}", f"data={data}", f"eval={held_out}", "lora=8", "num_train_epochs=20")
    run = configured(*words)
    assert run.actor.adapters.lora_r == 8 and run.actor.adapters.lora_alpha == 16 and run.actor.optimizer.lr == 1e-5
    assert run.loop.train_iters == 44 and run.loop.eval_interval == 4
    assert list(run.loop.eval_data_path or {}) == ["given"]
    assert not configured(*words[:-2], "lora=false").actor.adapters.is_on


def test_words_of_the_user_take_precedence(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    given = ["train_iters=5", "lr=3e-5", "training.seed=7", "micro_batch_size=2", "seq_length=64", "devices=2"]
    run = configured(f"model={model_folder()}", f"data={data}", "export_hf=false", "name=mine", *given)
    assert (run.loop.train_iters, run.loop.seed, run.name) == (5, 7, "mine")
    assert run.actor.optimizer.lr == 3e-5 and run.actor.data.seq_length == 64
    assert (run.actor.batch.micro_batch_size, run.actor.batch.micro_batch_tokens) == (2, None)
    assert run.pools == {"actor_rollout": (2,)} and not run.actor.checkpoint.export_hf


def test_converted_weights_are_a_model_too_and_without_a_config_nothing_is_exported(tmp_path: Path) -> None:
    weights = convert_to_mcore(model_folder(), tmp_path / "mcore", (1, 1, 1))
    data = write_rows(tmp_path / "pairs.jsonl")
    run = configured(f"model={weights}", f"data={data}")
    assert run.actor.model.num_layers == 2 and run.actor.checkpoint.export_hf
    for assets in {file.parent for file in weights.rglob("config.json")}:
        shutil.rmtree(assets, ignore_errors=True)
    run = configured(f"model={weights}", f"data={data}", f"tokenizer_name_or_path={model_folder()}")
    assert run.actor.model.num_layers == 2 and not run.actor.checkpoint.export_hf


def test_several_sets_may_have_weights(tmp_path: Path) -> None:
    first, second = write_rows(tmp_path / "pairs.jsonl"), write_rows(tmp_path / "more.jsonl", PAIRS[:20])
    run = configured(f"model={model_folder()}", f"data={first},{second}")
    assert run.loop.train_iters == 3 and run.actor.data.data_path.count("tokens") == 2
    assert configured(f"model={model_folder()}", f"data=2,{first},1,{second}").actor.data.data_path.startswith("2,")


@pytest.mark.parametrize(("word", "stage"), [("offline", "dpo"), ("rm", "rm"), ("orm", "rm")])
def test_stages_have_short_names(word: str, stage: str, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    assert configured(f"model={model_folder()}", f"data={data}", f"stage={word}").loop.stage == stage


def test_online_trains_on_the_prompts_of_the_rows(tmp_path: Path) -> None:
    data, reward = write_rows(tmp_path / "pairs.jsonl"), "reward_functions=[examples.tiny.rewards.vowels]"
    run = configured(f"model={model_folder()}", f"data={data}", "stage=online", reward)
    assert run.is_online and run.reward is not None and run.reward.reward_source == "functions"
    assert run.actor.rollout.max_prompt_length == 128 and run.loop.train_iters == 3


def test_a_reward_model_of_its_own_has_its_own_architecture(tmp_path: Path) -> None:
    other = shutil.copytree(model_folder(), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    data = write_rows(tmp_path / "pairs.jsonl")
    run = configured(f"model={model_folder()}", f"data={data}", "stage=online", f"reward.load={other}")
    assert run.reward is not None and (run.actor.model.num_layers, run.reward.model.num_layers) == (2, 1)


def test_all_problems_come_before_a_row_is_read(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("no rows")
    with pytest.raises(ConfigError) as error:
        configured(f"model={model_folder()}", f"data={data}", "training.lrr=1", "dpo_loss_type=sigmoit", "beta=0.1")
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 3 and "sigmoit" in text and "did you mean lr" in text
    assert "beta is not a known key; did you mean dpo_beta (section training or" in text
    assert not (tmp_path / "outputs" / "token_cache").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=Qwen/Qwen2.5-0.5B", "data=x.jsonl"], "hf download Qwen/Qwen2.5-0.5B"),
        (["model={model}", "data=nowhere.jsonl"], "data=nowhere.jsonl does not exist"),
        (["model={model}", "data=org/set"], "hf download --repo-type dataset org/set --local-dir set"),
        (["model={empty}", "data=x.jsonl"], "holds no weights"),
        (["model={bare}", "data=x.jsonl"], "comes without a tokenizer"),
        (["model={prompts}", "data=x.jsonl"], "is a file; name the folder with the weights"),
        (["data=x.jsonl"], "model= is missing"),
        (["model={model}"], "data= is missing"),
        (["model={model}", "data=x", "stage=onlin"], "stage=onlin must be offline, online or rm; did you mean online"),
        (["model={model}", "data=x", "lora=all"], "lora=all must be the rank"),
        (["model={model}", "data=x", "devices=0"], "devices=0 must be"),
        (["model={model}", "data=x", "map_keys=prompt"], "map_keys should be a JSON object"),
        (["model={model}", "data=x", "num_train_epochs=0"], "num_train_epochs=0 must be more than 0"),
        (["model={model}", "data=x", "num_train_epochs=1", "train_iters=2"], "exclude each other"),
        (["model={model}", "data={prompts}"], "which stage=online trains on"),
    ],
)
def test_usual_mistakes_get_a_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bare = shutil.copytree(model_folder(), tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    places = {"model": model_folder(), "empty": tmp_path / "empty", "bare": bare, "prompts": prompts}
    filled = [word.format(**places) for word in words]
    with pytest.raises(ConfigError) as error:
        configured(*filled)
    assert message in str(error.value)
