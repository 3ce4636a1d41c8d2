"""Scores by a Hugging Face sequence classifier with one label, such as BERT or DeBERTa: text in, logit out.

Supported model families run as a reward model instead (`reward_model_scorer`). A classifier is not parallelised: the
output rank of a replica holds all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.workers.rewards.detokenization import PromptText, TextReader
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import Features, TextInputs, load_classifier_tokenizer
from mindspeed_dpo.workers.rewards.retokenization import decoded, drop_reason
from mindspeed_dpo.workers.scorer import NoScorer, PromptColumns, Scored, Scorer
from mindspeed_dpo.workers.setup.model_builder import limit_of
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

# Tokenizers without a limit have a maximum length above this.
_UNLIMITED = 10**9


class ClassifierScorer:
    """Scores responses by the logit of a classifier."""

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: TextInputs,
        reader: TextReader,
        policy: PreTrainedTokenizerBase,
        *,
        max_length: int | None,
        limit: MicroBatchLimit,
    ) -> None:
        """Score by a classifier.

        Args:
            model: Classifier with one label, on its device.
            inputs: Encodes texts for it.
            reader: Decodes rollouts to text.
            policy: The policy's tokenizer, for the text of prompts without messages.
            max_length: Longest input in tokens; None for no limit.
            limit: Most prompts of a forward pass, or most tokens, padding included.
        """
        self._model = model.eval().requires_grad_(False)
        self._inputs = inputs
        self._reader = reader
        self._policy = policy
        self._max_length = max_length
        # Without a padding token a model cannot detect where a padded input ends.
        self._pad = model.config.pad_token_id
        self._limit = limit

    def score(self, rollouts: RolloutBatch) -> Scored:
        """Score the prompts that the classifier can read; the others are failures."""
        k = rollouts.num_responses
        features: list[Features] = []
        positions, failures = [], {}
        prompts = [decoded(self._policy, ids.tolist()) for ids in rollouts.samples.prompts()]
        for p, text in enumerate(self._reader.read(rollouts)):
            try:
                features += self._encoded(text, prompts[p])
                positions.append(p)
            except RowDropped as error:
                failures[p] = f"the reward model cannot read it ({drop_reason(error)}): {text}"
        scores = np.full((rollouts.num_prompts, k), np.nan, np.float32)
        if positions:
            scores[positions] = self._logits(features, k).reshape(-1, k).cpu().numpy()
        return Scored(scores, failures)

    def _encoded(self, text: PromptText, prompt: str) -> list[Features]:
        """Encode the K responses to a prompt."""
        encoded = [self._inputs.features(text, prompt, response) for response in text.completions]
        longest = max(len(features["input_ids"]) for features in encoded)
        if self._max_length is not None and longest > self._max_length:
            raise RowDropped("too_long", f"{longest} tokens, but the model's limit is {self._max_length}")
        return encoded

    def _logits(self, features: Sequence[Features], k: int) -> Tensor:
        """Compute the logits [N] float32 of N inputs, k for each prompt."""
        logits = torch.empty(len(features), device=self._model.device)
        with torch.no_grad():
            for part in self._passes([len(one["input_ids"]) for one in features], k):
                inputs = dict(_padded([features[n] for n in part], self._pad or 0, self._model.device))
                logits[part] = self._model(**inputs).logits[:, 0].float()
        return logits

    def _passes(self, lengths: Sequence[int], k: int) -> Iterator[list[int]]:
        """Group inputs of similar length into passes, to minimise padding."""
        part: list[int] = []
        for number in sorted(range(len(lengths)), key=lengths.__getitem__):
            # Inputs are sorted, so this one is the longest so far, to which the others are padded.
            if part and (self._pad is None or not self._holds(len(part) + 1, lengths[number], k)):
                yield part
                part = []
            part.append(number)
        if part:
            yield part

    def _holds(self, count: int, length: int, k: int) -> bool:
        """Return whether a pass may have `count` inputs of a length."""
        limit = self._limit
        return count <= limit.units * k if limit.units is not None else count * length <= (limit.rows or 0)


def _padded(features: Sequence[Features], pad: int, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors [n, longest] int64 by name, padded on the right, and the attention mask."""
    lengths = torch.tensor([len(one["input_ids"]) for one in features])
    for name in features[0]:
        rows = [torch.tensor(one[name]) for one in features]
        fill = pad if name == "input_ids" else 0
        yield name, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill).to(device)
    yield "attention_mask", (torch.arange(int(lengths.max())) < lengths[:, None]).long().to(device)


def load_classifier(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a classifier from a folder only; nothing is downloaded, and no code in the folder runs.

    Raises:
        ValueError: It cannot be loaded, or weights are missing.
    """
    try:
        read_json_object(Path(folder) / "config.json")
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # transformers raises errors of any type for files that do not fit each other
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"load of section reward: {folder} holds no classifier that can be loaded: {cause}") from error
    # transformers would initialise a missing head at random.
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"]))
        raise ValueError(f"load of section reward: {folder} lacks {missing}: it was not trained to classify")
    return model


def classifier_scorer(role: RoleConfig, context: WorkerContext, policy: Path, prompts: PromptColumns) -> Scorer:
    """Build the scorer of a classifier on the output rank of a replica; other ranks get one without scores.

    Args:
        role: Settings of the reward.
        context: Context of this process.
        policy: Directory of the policy's tokenizer.
        prompts: The prompts of the rollouts, for their messages.
    """
    if not context.place.is_output:
        return NoScorer()
    tokenizer, policy_tokenizer = load_classifier_tokenizer(role), load_tokenizer(policy)
    model = load_classifier(str(role.checkpoint.load), getattr(torch, role.precision.dtype)).to(context.device)
    return ClassifierScorer(
        model,
        TextInputs(tokenizer, role.reward.reward_prompt_type),
        TextReader(policy_tokenizer, prompts, extract_answer=role.reward.extract_content_for_reward),
        policy_tokenizer,
        max_length=max_length(model.config, tokenizer),
        limit=limit_of(role),
    )


def max_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the longest input that model and tokenizer allow, in tokens; None without a limit."""
    limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min((limit for limit in limits if limit is not None and 0 < limit < _UNLIMITED), default=None)
