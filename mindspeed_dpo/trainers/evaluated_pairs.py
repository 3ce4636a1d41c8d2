"""Records the margins of the pairs of an evaluation for the report, with the texts of the most extreme ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.data.tokenization.decoding import Decode, decoder_of
from mindspeed_dpo.report.histograms import Histogram
from mindspeed_dpo.report.sample_files import MARGINS_FILE, ExamplePair
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors

NUM_EXAMPLES = 4
"""Pairs with the smallest margins that are recorded, and as many with the largest."""


@dataclass
class EvaluatedPairs:
    """Writes `eval_margins.json` after each evaluation.

    Attributes:
        folder: Folder of the run.
        dataset: Source of the pairs.
        make_decoder: Returns what turns token ids to text; called at the first evaluation.
    """

    folder: Path
    dataset: TrainEvalPairs
    make_decoder: Callable[[], Decode]

    @classmethod
    def of(cls, config: RunConfig, dataset: TrainEvalPairs) -> EvaluatedPairs | None:
        """Return the record of a run; None for a run without report, which alone reads it."""
        make_decoder = partial(decoder_of, config.actor.data.tokenizer_name_or_path)
        return cls(Path(config.loop.output_dir), dataset, make_decoder) if config.loop.report else None

    @cached_property
    def _decode(self) -> Decode:
        return self.make_decoder()

    def write(
        self, step: int, sets: Mapping[str, NDArray[np.int64]], margins: Mapping[str, NDArray[np.floating]]
    ) -> list[ExamplePair]:
        """Replace the file, and return the examples in it.

        Args:
            step: Steps completed.
            sets: Set name -> [n] int64 dataset rows.
            margins: Set name -> [n] chosen minus rejected reward of each row.

        Raises:
            WriteError: The file cannot be written.
        """
        if not margins:
            return []
        rows = np.concatenate([sets[name] for name in margins])
        values = np.concatenate(list(margins.values())).astype(np.float64)
        finite = np.isfinite(values)
        rows, values = rows[finite], values[finite]
        if not len(values):
            return []
        order = np.argsort(values, kind="stable")
        chosen = np.unique(
            [*range(min(NUM_EXAMPLES, len(order))), *range(max(len(order) - NUM_EXAMPLES, 0), len(order))]
        )
        examples = [self._example(int(rows[index]), float(values[index])) for index in order[chosen]]
        content = {
            "step": step,
            "margins": asdict(Histogram.of(values.tolist())),
            "examples": [asdict(example) for example in examples],
        }
        path = self.folder / MARGINS_FILE
        with write_errors(path):
            write_text_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        return examples

    def _example(self, row: int, margin: float) -> ExamplePair:
        """Return the texts of a row; of a ranking the best and the worst response."""
        pair = self.dataset.batch([row])
        responses = [ids for ids in pair.responses()[0] if len(ids)]
        texts = (pair.prompts()[0], responses[0], responses[-1])
        return ExamplePair(margin, *(self._decode(ids.tolist()) for ids in texts))
