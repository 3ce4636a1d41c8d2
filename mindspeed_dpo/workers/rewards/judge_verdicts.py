"""Verdicts in the text of a judge model: a number for one response, or the better of two."""

from __future__ import annotations

import re

from mindspeed_dpo.config.settings.judge_template import FIRST, SCORE, SECOND, TIE
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.untrusted.errors import shortened

Points = tuple[float, ...]
"""What a verdict gives each response that the question showed."""
COMPARISONS: dict[str, Points] = {FIRST: (1.0, 0.0), SECOND: (0.0, 1.0), TIE: (0.5, 0.5), "tie": (0.5, 0.5)}
_QUOTED_CHARACTERS = 200
"""Most of a text that an error quotes."""


class UnparsedVerdictError(ValueError):
    """A text has no verdict; the message says what was expected and quotes the text."""


class VerdictParser:
    """Finds the verdict in a text: the last one, as a judge model may weigh several before it decides."""

    def __init__(self, settings: RewardConfig) -> None:
        """Find verdicts as the settings of a reward say."""
        self._settings = settings
        self._pattern = re.compile(settings.judge_pattern)

    def points(self, text: str) -> Points:
        """Return the points of the responses that the judge model was shown.

        Raises:
            UnparsedVerdictError: The text has no verdict.
        """
        found = [match[1] for match in self._pattern.finditer(text) if match[1] is not None]
        if not found:
            raise UnparsedVerdictError(
                f"judge_verdict={self._settings.judge_pattern} finds nothing in its text {_quoted(text)}"
            )
        last = found[-1].strip()
        return self._score(last, text) if self._settings.judge_mode == SCORE else self._comparison(last, text)

    def _score(self, found: str, text: str) -> Points:
        low, high = self._settings.judge_score_range
        try:
            score = float(found)
        except ValueError as error:
            raise UnparsedVerdictError(f"{found!r} is not a number, in its text {_quoted(text)}") from error
        if not low <= score <= high:  # nor is nan within them
            raise UnparsedVerdictError(
                f"{found} is not within judge_score_range=[{low:g}, {high:g}], in its text {_quoted(text)}"
            )
        return (score,)

    def _comparison(self, found: str, text: str) -> Points:
        points = COMPARISONS.get(found.lower())
        if points is None:
            raise UnparsedVerdictError(f"{found!r} is not A, B or C, in its text {_quoted(text)}")
        return points


def _quoted(text: str) -> str:
    return shortened(repr(text), _QUOTED_CHARACTERS)
