"""What became of the rows of a run: counted while it goes, told at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.data.tokenization.examples import MALFORMED, REASONS

_SHOWN = ("input_ids", "chosen_input_ids", "rejected_input_ids")


@dataclass
class Tally:
    """Counts over rows; tallies of parts add up to the tally of the whole.

    Attributes:
        rows_in: Raw rows read.
        kept: Rows stored.
        dropped: Reason -> rows.
        first_case: Reason -> the first row it happened in and its detail.
        longest: Column -> tokens of its longest stored row.
        prompt_tails: Pairs in which the end of the prompt merged with a response.
    """

    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_case: dict[str, tuple[int, str]] = field(default_factory=dict)
    longest: Counter[str] = field(default_factory=Counter)
    prompt_tails: int = 0

    def keep(self, lengths: Mapping[str, int], prompt_tail: int) -> None:
        """Count a stored row."""
        self.rows_in += 1
        self.kept += 1
        self.prompt_tails += prompt_tail > 0
        self.longest |= Counter(lengths)

    def drop(self, row: int, reason: str, detail: str) -> None:
        """Count a row that is left out."""
        self.rows_in += 1
        self.dropped[reason] += 1
        self.first_case.setdefault(reason, (row, detail))

    def add(self, other: Tally) -> None:
        """Count the rows of a later part."""
        self.rows_in += other.rows_in
        self.kept += other.kept
        self.dropped += other.dropped
        self.first_case = {**other.first_case, **self.first_case}
        self.longest |= other.longest
        self.prompt_tails += other.prompt_tails

    @property
    def malformed(self) -> int:
        """Rows that are not what the handler expects."""
        return sum(self.dropped[reason] for reason in MALFORMED)

    def cases(self) -> list[tuple[str, int, str]]:
        """Reason, rows, and a remark with the meaning and the first case; most frequent first."""
        found = []
        for reason, count in self.dropped.most_common():
            row, detail = self.first_case[reason]
            found.append((reason, count, f"{REASONS[reason]}; first in row {row}" + (f": {detail}" if detail else "")))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the description beside the token files."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.kept,
            "rows_dropped": dict(sorted(self.dropped.items())),
            "longest": dict(sorted(self.longest.items())),
        }

    def table(self) -> str:
        """Rows in, kept, dropped by reason and the longest rows, as aligned lines."""
        lines = [("rows in", self.rows_in, ""), ("rows kept", self.kept, "")]
        lines += [(f"dropped: {reason}", count, remark) for reason, count, remark in self.cases()]
        lines += [(f"longest {name}", n, "tokens") for name, n in self.longest.items() if name in _SHOWN]
        if self.prompt_tails:
            lines.append(
                ("prompt tails", self.prompt_tails, "pairs whose prompt ends in tokens that merge with an answer")
            )
        width = max(len(name) for name, _, _ in lines)
        return "\n".join(f"  {name:<{width}}  {count:>9}  {remark}".rstrip() for name, count, remark in lines)
