"""Online DPO: what its numbers mean, which settings do not fit, and which have no effect in which stage."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.estimates.workload import iteration_workload
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.config.settings.registry import OFFLINE_KEYS, ONLINE_KEYS, REWARD_SOURCES_USING, SETTINGS
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved, small_tree


def with_model() -> Tree:
    """Online, scored by a model."""
    tree = online_tree()
    tree["reward"] = {"load": "reward"}
    return tree


XPO: dict[str, Any] = {"online_method": "xpo"}
NASH: dict[str, Any] = {"online_method": "nash_md"}
PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"max_prompt_length": 256}, "max_prompt_length=256 leaves no tokens for a response: seq_length=256 must be more"),
    ({"seq_length": 100}, "max_prompt_length=128 leaves no tokens for a response: seq_length=100 must be more"),
    ({"ppo_mini_batch_size": 3}, "ppo_mini_batch_size=3 does not divide global_batch_size=8; choose 1, 2, 4 or 8"),
    ({"do_sample": False}, "do_sample=false is refused: without sampling, the responses to a prompt are identical"),
    ({"tokenizer_name_or_path": None}, "tokenizer_name_or_path=null must name the directory of the tokenizer"),
    (
        {"inference_tensor_model_parallel_size": 4},
        "does not divide num_query_groups=2 and the 2 processes of the actor; choose 1 or 2",
    ),
    (
        {"max_tokens_to_oom": 1000},
        "max_tokens_to_oom=1000 is less than the 2048 tokens in the cache of a rollout replica: 8 responses of "
        "seq_length=256 in blocks of 64; raise it, or set rollout_slots=3",
    ),
    (
        {"publish_bucket_bytes": 100},
        "publish_bucket_bytes=100 is less than one row of ffn_hidden_size=",
    ),
    ({"seq_length": 5000, "max_tokens_to_oom": 100000}, "seq_length=5000 is more than max_position_embeddings="),
    ({"max_tokens_to_oom": 100}, "8 responses of seq_length=256 in blocks of 64; raise it"),
    ({"max_tokens_to_oom": 1600, "seq_length": 200}, "is less than the 2048 tokens"),
    ({"verifier": True}, "verifier=true is refused: rule-based rewards are functions; name them in reward_functions"),
    ({"reward_weights": [1, 2]}, "reward_weights=[1.0, 2.0] must have a weight for each of the 1 reward_functions"),
    ({"judge": "package.judge"}, "reward.reward_functions=[package.score] and judge exclude each other; keep one"),
    ({"judge": "judge"}, "judge=judge must be a dotted path such as package.module.function"),
    ({"dpo_loss_type": "sigmoid", "ipo_normalize": True}, "has no effect with dpo_loss_type=sigmoid"),
    (
        {"ld_alpha": 0.5},
        "ld_alpha=0.5 requires stage dpo: online, the reference scores responses before they are paired",
    ),
    (
        {"margin_column": "gap"},
        "margin_column=gap requires pairs from a dataset; online, pairs are made from responses",
    ),
    ({"weight_column": "trust"}, "weight_column=trust requires pairs from a dataset"),
    (
        {"margin_scale": 2.0},
        "margin_scale=2.0 has no effect online with dpo_loss_type=sigmoid; remove it or choose rpo",
    ),
    ({"dpo_beta_end": 0.5}, "dpo_beta_end=0.5 has no effect with dpo_beta_style=constant; choose linear or cosine"),
    ({"dpo_beta_style": "linear"}, "dpo_beta_style=linear requires dpo_beta_end"),
    ({"num_gpus_for_train": 3}, "num_gpus_for_train=3 and num_gpus_for_infer=null must add up to the 2 processes"),
    ({"split": "x"}, "split=x must be one to three shares"),
    (
        XPO | {"n_samples_per_prompt": 4},
        "n_samples_per_prompt=4 cannot be combined with online_method=xpo, which samples one response",
    ),
    (NASH | {"pair_selection": "random"}, "pair_selection=random cannot be combined with online_method=nash_md"),
    (
        XPO | {"dpo_loss_type": "hinge"},
        "dpo_loss_type=[hinge] cannot be combined with online_method=xpo, which adds its bonus",
    ),
    (XPO | {"dpo_loss_type": ["sigmoid", "sft"]}, "adds its bonus to a single loss; choose sigmoid or ipo"),
    (XPO | {"dpo_loss_type": "simpo"}, "dpo_loss_type=[simpo] cannot be combined with online_method=xpo"),
    ({"xpo_alpha": 0.1}, "xpo_alpha=0.1 has no effect with online_method=dpo; remove it or choose xpo"),
    ({"nash_md_mixture": 0.1}, "nash_md_mixture=0.1 has no effect with online_method=dpo; remove it or choose nash_md"),
    (NASH | {"nash_md_mixture": 1.5}, "nash_md_mixture=1.5 must be at least 0 and at most 1"),
    (XPO | {"xpo_alpha": -1.0}, "xpo_alpha=-1.0 must be at least 0"),
    ({"online_method": "ppo"}, "online_method=ppo is not supported"),
    (
        NASH | {"dpo_loss_type": "ipo"},
        "dpo_loss_type=[ipo] is a setting of a pair loss, but online_method=nash_md trains",
    ),
    (NASH | {"pref_ftx": 0.5}, "pref_ftx=0.5 is a setting of a pair loss"),
    (NASH | {"min_reward_margin": 0.5}, "min_reward_margin=0.5 has no effect with online_method=nash_md"),
    (NASH | {"ppo_epochs": 2}, "ppo_epochs=2 cannot be combined with online_method=nash_md, whose policy gradient"),
    (
        XPO | {"load": None, "random_init": True},
        "random_init=true cannot be combined with online_method=xpo: the rollout loads",
    ),
    ({"rollout_staleness": 1}, "rollout_staleness=1 has no effect where the policy generates on the training"),
    ({"rollout_staleness": 2}, "rollout_staleness=2 must be 0 or 1"),
    (
        NASH | {"rollout_staleness": 1, "num_gpus_for_infer": 1, "num_gpus_for_train": 1},
        "rollout_staleness=1 cannot be combined with online_method=nash_md, whose policy gradient",
    ),
    (
        NASH | {"load_checkpoint_loosely": True},
        "load_checkpoint_loosely=true cannot be combined with online_method=nash_md",
    ),
]


@pytest.mark.parametrize(("changes", "words"), PROBLEMS, ids=[str(changes) for changes, _ in PROBLEMS])
def test_settings_that_do_not_fit_are_one_problem(changes: dict[str, Any], words: str) -> None:
    tree = online_tree()
    for key, value in changes.items():
        put(tree, key, value)
    actual = problems(tree)
    assert len(actual) == 1, actual
    assert words in actual[0]


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({}, "reward.load=null must name a reward model; or set reward_functions, a judge or a judge_model"),
        ({"judge": "a.b", "load": "reward"}, "reward.judge=a.b and load of section reward exclude each other"),
        (
            {"judge": "a.b", "load": "reward", "reward_functions": ["a.c"]},
            "reward.reward_functions=[a.c] and judge and load of section reward exclude each other; keep one",
        ),
        (
            {"judge_model": "folder", "judge": "a.b", "load": "reward"},
            "reward.judge=a.b and judge_model and load of section reward exclude each other; keep one",
        ),
        ({"judge_model": "m", "load": "reward"}, "reward.judge_model=m and load of section reward exclude each other"),
        ({"load": "reward", "random_init": True}, "reward.random_init=true and load exclude each other"),
        ({"reward_functions": ["score"]}, "reward.reward_functions=[score] must be dotted paths such as"),
        (
            {"load": "reward", "reward_weights": [1]},
            "reward.reward_weights=[1.0] has no effect without reward_functions",
        ),
        ({"load": "reward", "tensor_model_parallel_size": 2}, "differs from 1 of the actor, whose devices it shares"),
        (
            {"load": "reward", "model": "other"},
            "model.other.vocab_size=300 differs from 262 of the actor, whose token ids",
        ),
    ],
)
def test_what_scores_must_be_exactly_one_and_fit(reward: dict[str, Any], words: str) -> None:
    tree = online_tree()
    if reward.get("model"):
        tree["model"]["other"] = {**tree["model"]["small"], "vocab_size": 300}
    tree["reward"] = reward
    actual = problems(tree)
    assert len(actual) == 1, actual
    assert words in actual[0]


def test_problems_of_rollout_reward_and_pools_come_in_one_list() -> None:
    tree = put(put(online_tree(num_gpus_for_infer=2), "do_sample", False), "ppo_mini_batch_size", 3)
    tree["reward"] = {"verifier": True}
    actual = "\n".join(problems(tree))
    for key in ("num_gpus_for_infer", "do_sample", "ppo_mini_batch_size", "verifier", "reward.load"):
        assert key in actual
    assert actual.count("\n") == 4


def test_a_reward_model_with_other_tokens_needs_its_tokenizer() -> None:
    tree = with_model()
    tree["model"]["other"] = {**tree["model"]["small"], "vocab_size": 300}
    tree["reward"] |= {"model": "other", "reward_tokenizer": "hf"}
    run = resolved(tree)
    assert run.reward is not None
    assert (run.reward.model.vocab_size, run.actor.model.vocab_size) == (300, 262)


def test_a_reward_model_must_support_the_longest_response() -> None:
    tree = with_model()
    tree["model"]["short"] = {**tree["model"]["small"], "max_position_embeddings": 100}
    tree["reward"]["model"] = "short"
    (actual,) = problems(tree)
    assert "seq_length=256 is more than max_position_embeddings=100 of the model of reward" in actual


@pytest.mark.parametrize("written", [None, 1, 2, 5])
def test_a_prompt_gets_two_responses_or_more(written: int | None) -> None:
    run = resolved(put(online_tree(), "n_samples_per_prompt", written))
    assert run.actor.rollout.n_samples_per_prompt == max(2, written or 2)
    assert any("read as 2" in note for note in run.notes) == (written == 1)


def test_absent_settings_follow_from_others() -> None:
    run = resolved(online_tree())
    assert run.actor.pairing.ppo_mini_batch_size == run.actor.batch.global_batch_size == 8
    assert run.actor.max_new_tokens == 256 - 128
    assert (run.actor.rollout.num_gpus_for_train, run.actor.rollout.num_gpus_for_infer) == (2, 0)
    assert run.actor.reference.reference == "live"
    assert run.ref is not None
    assert run.ref.reference.reference == "live"


def test_batches_need_not_divide_online() -> None:
    for key, value in {"global_batch_size": 7, "micro_batch_size": 5}.items():
        assert problems(put(online_tree(), key, value)) == []
    assert problems(put(small_tree(), "global_batch_size", 7)) != []


@pytest.mark.parametrize(("stage", "normalized"), [("dpo", True), ("ray_online_dpo", False)])
def test_ipo_takes_means_offline_and_sums_online(stage: str, normalized: bool) -> None:
    tree = put(small_tree() if stage == "dpo" else online_tree(), "dpo_loss_type", "ipo")
    assert resolved(tree).actor.loss.ipo_normalize is normalized
    assert resolved(put(tree, "ipo_normalize", not normalized)).actor.loss.ipo_normalize is not normalized


@pytest.mark.parametrize("tree", [small_tree(), online_tree()], ids=["offline", "online"])
def test_beta_may_go_somewhere(tree: Tree) -> None:
    run = resolved(put(put(tree, "dpo_beta_end", 0.5), "dpo_beta_style", "linear"))
    assert (run.actor.loss.dpo_beta, run.actor.loss.dpo_beta_end, run.actor.loss.dpo_beta_style) == (0.1, 0.5, "linear")


@pytest.mark.parametrize("section", ["training", "reward", "actor"])
def test_the_reward_may_be_set_in_any_section_and_holds_for_all(section: str) -> None:
    tree = online_tree()
    del tree["reward"]
    place = {"actor": tree["actor_rollout_ref"]["actor_rollout"]}.get(section) or tree.setdefault(section, {})
    place["reward_functions"] = ["a.b", "a.c"]
    run = resolved(tree)
    assert run.notes == ()
    assert {role.reward.reward_functions for role in run.roles} == {("a.b", "a.c")}
    tree["actor_rollout_ref"]["ref"] = {"reward_functions": ["a.d"], "load": "weights"}
    (actual,) = problems(tree)
    assert "the run has a single value" in actual


@pytest.mark.parametrize(
    ("written", "read"), [(["a.b"], ("a.b",)), ("a.b", ("a.b",)), ("a.b, a.c", ("a.b", "a.c")), (["a.b", "a.c"], None)]
)
def test_a_list_may_be_written_as_one_text(written: Any, read: tuple[str, ...] | None) -> None:
    tree = online_tree()
    tree["reward"]["reward_functions"] = written
    assert resolved(tree).actor.reward.reward_functions == (read or ("a.b", "a.c"))


def test_a_malicious_list_stays_text() -> None:
    tree = put(online_tree(), "dataset_additional_keys", "__import__('os').abort()")
    assert resolved(tree).actor.reward.dataset_additional_keys == ("__import__('os').abort()",)


@pytest.mark.parametrize("way", ["functions", "judge", "judge_model", "model"])
def test_every_role_has_the_reward_source(way: str) -> None:
    tree = online_tree()
    tree["reward"] = {
        "functions": {"reward_functions": ["a.b"]},
        "judge": {"judge": "a.b"},
        "judge_model": {"judge_model": "folder"},
        "model": {"random_init": True},
    }[way]
    run = resolved(tree)
    assert run.reward is not None
    assert {role.reward_source for role in run.roles} == {way}
    assert run.reward.checkpoint.random_init == (way == "model")
    assert run.reward.model == run.actor.model


def test_a_reward_without_a_model_reports_what_a_model_would_need() -> None:
    tree = online_tree()
    tree["reward"] |= {"model": "small", "micro_batch_size": 4, "reward_tokenizer": "hf", "lr": 1.0}
    notes = resolved(tree).notes
    for key in ("model", "micro_batch_size", "reward_tokenizer", "lr"):
        assert any(note.startswith(f"reward.{key}") and "has no effect" in note for note in notes), key


@pytest.mark.parametrize("key", [key for key, ways in REWARD_SOURCES_USING.items() if "model" not in ways])
def test_what_only_functions_use_is_reported_beside_a_model(key: str) -> None:
    value = {"reward_timeout_s": 5.0, "dataset_additional_keys": ["labels"]}.get(key) or _other_value(key)
    (note,) = resolved(put(with_model(), key, value)).notes
    assert f"training.{key}=" in note
    assert "has no effect" in note


def _other_value(key: str) -> Any:
    """An acceptable value other than the default."""
    item = SETTINGS[key]
    if key == "eval_data_path":
        return {"held_out": "pairs"}
    if key == "judge_score_range":
        return [0.0, 1.0]
    if key in ("vllm", "judge_vllm"):
        return {"enforce_eager": True}
    if item.info.choices:
        return next(choice for choice in reversed(item.info.choices) if choice != item.default)
    candidates = (True, False, "a.b", 1, 2, 0.5, 0.25, ["a.b"], [0.5])
    kinds = {"bool": bool, "int": int, "float": float, "str": str}
    name = getattr(item.type, "__name__", str(item.type).split(" |")[0])
    wanted = list if name == "tuple" else kinds[name]
    fitting = (value for value in candidates if type(value) is wanted and value != item.default)
    return next(value for value in fitting if not (key == "reward_weights" and value == ["a.b"]))


@pytest.mark.parametrize("key", ONLINE_KEYS)
def test_a_key_of_online_dpo_is_reported_offline_and_leaves_the_run_as_it_was(key: str) -> None:
    plain, changed = resolved(small_tree()), resolved(put(small_tree(), key, _other_value(key)))
    (note,) = changed.notes
    assert f"training.{key}=" in note
    assert "has no effect: only ray_online_dpo uses it" in note
    assert changed == plain


@pytest.mark.parametrize("key", OFFLINE_KEYS)
def test_a_key_of_offline_dpo_is_reported_online_and_leaves_the_run_as_it_was(key: str) -> None:
    value = {"reference": "cached"}.get(key) or _other_value(key)
    plain, changed = resolved(online_tree()), resolved(put(online_tree(), key, value))
    (note,) = changed.notes
    assert f"training.{key}=" in note
    assert "has no effect" in note
    assert changed == plain


def test_a_value_that_holds_online_anyway_is_no_news() -> None:
    tree = put(put(put(online_tree(), "reference", "live"), "eval_interval", 0), "use_kv_cache", True)
    assert resolved(put(tree, "verifier", False)).notes == ()


def test_too_few_prompts_and_too_long_a_call_are_reported() -> None:
    few = resolved(put(put(online_tree(), "global_batch_size", 1), "num_samples_per_step", 4))
    assert few.notes == (
        "global_batch_size=1 prompts leave 1 of 2 rollout replicas without work",
        "num_samples_per_step=4 is more than the 1 prompts of a rollout replica, which are generated in one call",
    )


@pytest.mark.parametrize(
    ("changes", "pairs", "steps", "slots"),
    [
        ({}, 8, 1, 8),
        ({"ppo_mini_batch_size": 2, "ppo_epochs": 3}, 8, 12, 8),
        ({"n_samples_per_prompt": 4}, 8, 1, 16),
        ({"n_samples_per_prompt": 4, "pair_selection": "all"}, 48, 1, 16),
        ({"num_samples_per_step": 1}, 8, 1, 2),
        ({"rollout_slots": 3}, 8, 1, 3),
    ],
)
def test_the_work_of_an_iteration(changes: dict[str, Any], pairs: int, steps: int, slots: int) -> None:
    tree = online_tree()
    for key, value in changes.items():
        put(tree, key, value)
    work = iteration_workload(resolved(tree))
    assert (work.pairs, work.optimizer_steps, work.slots, work.prompts_per_replica) == (pairs, steps, slots, 4)
    assert (work.cache_tokens, work.reserved_tokens) == (slots * 256, 16 * 256)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (
            "prompts_packed_input_ids_document.bin",
            "data_path=prompts has no file prompts_packed_input_ids_document.bin",
        ),
        (
            "prompts_packed_input_ids_document.idx",
            "data_path=prompts has no file prompts_packed_input_ids_document.idx",
        ),
        ("reward", "reward.load=reward does not exist"),
        ("hf", "training.tokenizer_name_or_path=hf does not exist"),
        ("other_hf", "reward.reward_tokenizer=other_hf does not exist"),
    ],
)
def test_a_path_that_does_not_exist_is_one_problem(missing: str, words: str) -> None:
    tree = with_model()
    tree["reward"]["reward_tokenizer"] = "other_hf"
    actual = problems(tree, exists=lambda name: name != missing)
    assert len(actual) == 1, actual
    assert words in actual[0]


def test_online_data_needs_no_pairs() -> None:
    assert problems(online_tree(), exists=lambda name: "chosen" not in name) == []


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.actor_rollout.tensor_model_parallel_size=2",
        "actor_rollout_ref.actor_rollout.num_gpus_for_infer=1",
    ],
)
def test_what_the_tiny_file_offers_in_its_head_works(override: str) -> None:
    run = check(compose("online_dpo_trainer_tiny", [override]), exists=lambda path: True)
    assert run.num_processes("actor") + run.num_processes("rollout") in (2, 4)


def test_reward_aware_losses_take_their_margins_from_the_scores_and_refuse_a_judge() -> None:
    tree = put(put(online_tree(), "dpo_loss_type", "rpo_bwd_kl"), "margin_scale", 2.0)
    run = resolved(tree)
    assert run.actor.loss.is_reward_aware and run.actor.loss.margin_column is None and run.notes == ()
    tree["reward"] = {"judge": "package.judge"}
    (problem,) = problems(tree)
    assert "dpo_loss_type=[rpo_bwd_kl] requires the difference of two scores, but a judge gives preferences" in problem


def test_nash_md_refuses_a_judge() -> None:
    tree = put(online_tree(), "online_method", "nash_md")
    tree["reward"] = {"judge": "package.judge"}
    (problem,) = problems(tree)
    assert (
        "judge=package.judge cannot be combined with online_method=nash_md, which requires the difference of two scores"
        in problem
    )
    assert problems(put(tree, "online_method", "xpo")) == []


def test_a_reference_of_its_own_must_divide_as_the_rollout_does() -> None:
    tree = put(online_tree(), "online_method", "xpo")
    actor = tree["actor_rollout_ref"]["actor_rollout"]
    actor["inference_tensor_model_parallel_size"] = 2
    tree["model"]["odd"] = {**tree["model"]["small"], "num_attention_heads": 3, "num_query_groups": 1, "kv_channels": 8}
    tree["actor_rollout_ref"]["ref"] = {"model": "odd", "load": "ref"}
    (problem,) = problems(tree)
    assert "num_attention_heads=3 is not divisible by inference_tensor_model_parallel_size=2, and with" in problem
    assert problems(put(tree, "online_method", "dpo")) == []


@pytest.mark.parametrize("method", [XPO, NASH], ids=str)
def test_where_another_model_generates_too_it_does_so_after_the_policy(method: dict[str, Any]) -> None:
    tree = put(online_tree(), "online_method", method["online_method"])
    plain, meeting = iteration_workload(resolved(online_tree())), iteration_workload(resolved(tree))
    assert (meeting.responses, meeting.slots) == (plain.responses, plain.slots / 2)
    lines = "\n".join(plan_lines(resolved(tree)))
    assert "reference weights" in lines and ("reference cache" in lines) == (method is NASH)
    assert "reference weights" not in "\n".join(plan_lines(resolved(online_tree())))
    assert resolved(yaml.safe_load(resolved(tree).as_yaml())) == resolved(tree)
