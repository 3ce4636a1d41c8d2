"""Builds the scorer of a judge model, and checks beforehand what it needs: folder, tokenizer, vLLM."""

from __future__ import annotations

import logging
from pathlib import Path

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.generation import PYTHON
from mindspeed_dpo.config.settings.judge_template import SHOWN
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.vllm_engine.interpreter import EngineInstallation, inspect_interpreter, interpreter_of
from mindspeed_dpo.workers.rewards.detokenization import PromptText, TextReader
from mindspeed_dpo.workers.rewards.judge_engine import (
    JudgeEngine,
    host_cache,
    judge_arguments,
    judge_sampling,
    start_judge_process,
)
from mindspeed_dpo.workers.rewards.judge_files import JudgeFiles, open_judge_files
from mindspeed_dpo.workers.rewards.judge_model_scorer import JudgeModelScorer
from mindspeed_dpo.workers.rewards.judge_questions import JudgeQuestions
from mindspeed_dpo.workers.rewards.judge_verdicts import VerdictParser
from mindspeed_dpo.workers.rewards.retokenization import drop_reason
from mindspeed_dpo.workers.rewards.reward_tokenizer import policy_tokenizer
from mindspeed_dpo.workers.scorer import NoScorer, PromptColumns, Scorer
from mindspeed_dpo.workers.setup.visible_devices import own_device, visible_devices
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

logger = logging.getLogger(__name__)


def check_judge_model(role: RoleConfig) -> EngineInstallation:
    """Check a judge model's folder, that its chat template takes a question, and that vLLM has model and arguments.

    Raises:
        ValueError: One of them does not fit, with vLLM's own message where there is one.
        OSError: A file cannot be read.
    """
    settings = role.reward
    files = open_judge_files(settings)
    _check_template(_questions(settings, files), settings)
    python = interpreter_of(settings.judge_vllm_setting(PYTHON))
    found = inspect_interpreter(python, files.architecture, judge_arguments(settings), key="judge_vllm")
    if found.problems:
        raise ValueError(
            f"judge_model={settings.judge_model}: vLLM {found.vllm} of {python} refuses it: {'; '.join(found.problems)}"
        )
    logger.info("vLLM %s with torch %s in %s judges", found.vllm, found.torch, python)
    return found


def check_judge_columns(settings: RewardConfig, prompts: PromptColumns) -> None:
    """Check that the dataset has the columns that a question to the judge model shows.

    Raises:
        ValueError: One is missing.
    """
    columns = prompts.columns([0])
    for name in settings.dataset_additional_keys:
        if name not in columns:
            raise ValueError(
                f"dataset_additional_keys names {name}, but the prompt set has only the columns {', '.join(columns)}; "
                f"preprocess it with dataset_additional_keys: [{name}]"
            )


def judge_model_scorer(context: WorkerContext, role: RoleConfig, dataset: PromptColumns) -> Scorer:
    """Start the engine of a replica beside its output rank and build its scorer; a collective of the pool.

    Args:
        context: Context of this process.
        role: Settings of the reward.
        dataset: The prompts of the rollouts, for their columns.
    """
    has_own_pool = context.run.pool_of("reward") == "reward"
    devices = visible_devices(context, context.place) if has_own_pool else own_device(context)
    if not context.place.is_output:
        return NoScorer()
    settings, rank = role.reward, context.place.dp_rank
    environment = {**(host_cache() if context.accelerator.kind == "cpu" else {}), **devices}
    files = open_judge_files(settings)
    log_file = Path(context.run.loop.output_dir, "logs", f"judge_{rank}.log")
    process = start_judge_process(settings, log_file, environment)
    logger.info("judge_model %s is ready in process %d", settings.judge_model, process.pid)
    engine = JudgeEngine(process, files.tokenizer, judge_sampling(settings, files.stop_ids))
    return _scorer(context.run, settings, engine, files, dataset)


def _scorer(
    run: RunConfig, settings: RewardConfig, engine: JudgeEngine, files: JudgeFiles, dataset: PromptColumns
) -> JudgeModelScorer:
    policy = load_tokenizer(policy_tokenizer(run))
    extract = settings.extract_content_for_reward
    return JudgeModelScorer(
        engine,
        _questions(settings, files),
        VerdictParser(settings),
        TextReader(policy, dataset, settings.dataset_additional_keys, extract_answer=extract),
        policy,
        unparsed_score=settings.judge_unparsed_score,
        seed=run.loop.seed,
    )


def _questions(settings: RewardConfig, files: JudgeFiles) -> JudgeQuestions:
    return JudgeQuestions(files.tokenizer, settings, files.max_question_length)


def _check_template(questions: JudgeQuestions, settings: RewardConfig) -> None:
    """Write the shortest question.

    Raises:
        ValueError: The chat template refuses it, or it is too long.
    """
    shown = SHOWN[settings.judge_mode]
    columns = dict.fromkeys(settings.dataset_additional_keys, "")
    shortest = PromptText(0, "", ("",) * len(shown), ([],) * len(shown), columns)
    try:
        questions.ids(shortest, "", range(len(shown)))
    except RowDropped as error:
        raise ValueError(
            f"judge_model={settings.judge_model} cannot be asked even about an empty response: {drop_reason(error)}; "
            "change judge_template, judge_system or judge_max_new_tokens"
        ) from error
