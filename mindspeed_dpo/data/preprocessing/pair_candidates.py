"""Selects pairs among the responses of a row by their scores, by the rules of `pair_selection`."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from mindspeed_dpo.data.preprocessing.responses import make_pair
from mindspeed_dpo.data.tokenization.examples import PairExample, RankedExample, RowDropped

Candidate = tuple[int, int]


def candidate_pairs(example: RankedExample, rule: str, seed: int) -> list[Candidate]:
    """Return the indices of better and worse response of each candidate pair; of equal scores, the first is better.

    Args:
        example: The responses and their scores; responses without a score are in no pair.
        rule: A name of `RULES`.
        seed: Seed of a random rule, which also depends on the row, but not on its position.

    Raises:
        RowDropped: Fewer than two responses have a score.
    """
    return list(RULES[rule](ordered_by_score(example), _generator(example, seed)))


def ordered_by_score(example: RankedExample) -> list[int]:
    """Return the indices of the responses that have a score, the best first; equal ones keep their order.

    Raises:
        RowDropped: Fewer than two responses have a score.
    """
    scores = {index: score for index, score in enumerate(example.scores) if score is not None}
    if len(scores) < 2:
        raise RowDropped("no_preference", f"{len(scores)} of {len(example.scores)} responses have a score")
    return sorted(scores, key=lambda index: (-scores[index], index))


def ranked_pair(example: RankedExample, better: int, worse: int) -> PairExample:
    """Return the pair of two responses with their scores.

    Raises:
        RowDropped: A response is empty, or both are equal.
    """
    scores = (_score(example, better), _score(example, worse))
    return make_pair(
        example.prompt, example.responses[better], example.responses[worse], scores, margin=scores[0] - scores[1]
    )


def _score(example: RankedExample, index: int) -> float:
    score = example.scores[index]
    assert score is not None
    return score


def check_margin(example: PairExample, min_margin: float) -> None:
    """Check that one response is better by the minimum margin, if the data says by how much.

    Raises:
        RowDropped: Both are rated equally, or the difference is smaller.
    """
    if example.margin is None:
        return
    if example.margin == 0:
        raise RowDropped("tie")
    if example.margin < min_margin:
        raise RowDropped("small_margin", f"{example.margin:g}, min_score_margin is {min_margin:g}")


def _generator(example: RankedExample, seed: int) -> random.Random:
    content = repr((seed, example.prompt, example.responses))
    return random.Random(hashlib.sha256(content.encode(errors="surrogatepass")).digest())


def _best_worst(ordered: Sequence[int], generator: random.Random) -> Iterator[Candidate]:
    """Yield the responses with the highest and the lowest score."""
    yield ordered[0], ordered[-1]


def _random(ordered: Sequence[int], generator: random.Random) -> Iterator[Candidate]:
    """Yield two different responses, all pairs with equal probability."""
    better, worse = sorted(generator.sample(range(len(ordered)), 2))
    yield ordered[better], ordered[worse]


def _all(ordered: Sequence[int], generator: random.Random) -> Iterator[Candidate]:
    """Yield every two responses."""
    return itertools.combinations(ordered, 2)


RULES: dict[str, Callable[[Sequence[int], random.Random], Iterator[Candidate]]] = {
    "best_worst": _best_worst,
    "random": _random,
    "all": _all,
}
