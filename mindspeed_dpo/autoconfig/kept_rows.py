"""The rows that a run keeps of its data, by their lengths; no token is read."""

from __future__ import annotations

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.row_filtering import FilteredPairs, FilteredPrompts, FilteredRows
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group import PROMPT_COLUMNS, open_columns
from mindspeed_dpo.data.indexed.pair_file import PairFile
from mindspeed_dpo.data.indexed.ranking_file import open_ranked


def filtered_rows(run: RunConfig, data_path: str) -> FilteredRows:
    """The rows that the run would keep of a set, by their lengths.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged, or no row is left.
    """
    data, rollout = run.actor.data, run.actor.rollout
    sources = parse_data_path(data_path)
    if run.is_online:
        key = PROMPT_COLUMNS[0]
        lengths = [open_columns(source.prefix, (key,))[key].lengths for source in sources]
        return FilteredPrompts(lengths, sources, rollout.max_prompt_length, rollout.prompt_truncation)
    open_set = open_ranked if run.trains_reward_model else PairFile
    pairs = [open_set(source.prefix).lengths for source in sources]
    return FilteredPairs(pairs, sources, data.seq_length, data.truncation)
