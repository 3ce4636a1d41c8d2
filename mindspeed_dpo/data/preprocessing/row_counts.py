"""Counts of the rows of a preprocessing run by outcome, for the report and the metadata file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.data.tokenization.examples import MALFORMED, REASONS

_REPORTED_LENGTHS = ("input_ids", "chosen_input_ids", "rejected_input_ids")


@dataclass
class RowCounts:
    """Counts of rows by outcome; the counts of several parts can be added.

    Example:
        RowCounts(
            num_read=3,
            num_written=2,
            dropped=Counter({"empty_prompt": 1}),
            first_dropped={"empty_prompt": (2, "the prompt has no tokens")},
            max_lengths=Counter({"chosen_input_ids": 17, "rejected_input_ids": 19}),
            num_prompt_tails=0,
        )

    Read rows and further pairs together are the written and the dropped ones.

    Attributes:
        num_read: Raw rows read.
        num_written: Rows written to the token files.
        dropped: Reason -> number of rows.
        first_dropped: Reason -> number of the first such row, from 1, and its detail.
        max_lengths: Column -> number of tokens of its longest row.
        num_prompt_tails: Pairs in which tokens at the end of the prompt merge with a response.
        num_further: Pairs beyond the first of rows with several responses, and what is left out of a ranking.
        num_changed_turns: Pairs in which a scored message is rendered differently once others follow.
    """

    num_read: int = 0
    num_written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    max_lengths: Counter[str] = field(default_factory=Counter)
    num_prompt_tails: int = 0
    num_further: int = 0
    num_changed_turns: int = 0

    def count_read(self, num_examples: int) -> None:
        """Count a raw row, of which this many examples are written or dropped."""
        self.num_read += 1
        self.num_further += num_examples - 1

    def count_written(self, lengths: Mapping[str, int], prompt_tail: int = 0, is_turn_changed: bool = False) -> None:
        """Count a written row with the lengths of its columns and of its prompt tail, in tokens."""
        self.num_written += 1
        self.num_prompt_tails += prompt_tail > 0
        self.num_changed_turns += is_turn_changed
        self.max_lengths |= Counter(lengths)

    def count_dropped(self, row: int, reason: str, detail: str) -> None:
        """Count a dropped example; `row` is the number of its row in the raw data, from 1."""
        self.dropped[reason] += 1
        self.first_dropped.setdefault(reason, (row, detail))

    def add(self, other: RowCounts) -> None:
        """Add the counts of a later part of the data."""
        self.num_read += other.num_read
        self.num_written += other.num_written
        self.dropped += other.dropped
        self.first_dropped = {**other.first_dropped, **self.first_dropped}
        self.max_lengths |= other.max_lengths
        self.num_prompt_tails += other.num_prompt_tails
        self.num_further += other.num_further
        self.num_changed_turns += other.num_changed_turns

    @property
    def num_malformed(self) -> int:
        """Number of rows that do not have the format of the handler."""
        return sum(self.dropped[reason] for reason in MALFORMED)

    @property
    def num_examples(self) -> int:
        """Number of rows, each counted once for every pair that was made of it."""
        return self.num_read + self.num_further

    def drop_summary(self) -> list[tuple[str, int, str]]:
        """Return reason, number of rows and explanation of every reason, the most frequent first."""
        summary = []
        for reason, count in self.dropped.most_common():
            row, detail = self.first_dropped[reason]
            remark = f"{REASONS[reason]}; first in row {row}" + (f": {detail}" if detail else "")
            summary.append((reason, count, remark))
        return summary

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for the metadata file."""
        return {
            "rows_in": self.num_read,
            "rows_kept": self.num_written,
            "rows_dropped": dict(sorted(self.dropped.items())),
            "longest": dict(sorted(self.max_lengths.items())),
            **({"further_pairs": self.num_further} if self.num_further else {}),
        }

    def table(self) -> str:
        """Format rows read, written and dropped by reason, and the longest rows, as aligned lines."""
        lines = [("rows read", self.num_read, "")]
        if self.num_further:
            remark = "of rows with several responses; of rankings, responses left out"
            lines.append(("further pairs", self.num_further, remark))
        lines.append(("rows written", self.num_written, ""))
        lines += [(f"dropped: {reason}", count, remark) for reason, count, remark in self.drop_summary()]
        lines += [(f"longest {name}", n, "tokens") for name, n in self.max_lengths.items() if name in _REPORTED_LENGTHS]
        if self.num_prompt_tails:
            lines.append(
                (
                    "prompt tails",
                    self.num_prompt_tails,
                    "pairs whose prompt ends in tokens that merge with a response, or that the chat template writes "
                    "only where a response is generated",
                )
            )
        if self.num_changed_turns:
            lines.append(
                (
                    "changed turns",
                    self.num_changed_turns,
                    "pairs in which the chat template writes a scored message differently once others follow",
                )
            )
        width = max(len(name) for name, _, _ in lines)
        return "\n".join(f"  {name:<{width}}  {count:>9}  {remark}".rstrip() for name, count, remark in lines)
