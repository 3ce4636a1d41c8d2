"""The charts of a report: groups in a sensible order, each with the metrics that belong into one chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mindspeed_dpo.observability.metric_names import CALIBRATION_PREFIX, EVAL_PREFIX, METRICS, metric


@dataclass(frozen=True)
class Chart:
    """A chart of one or more metrics, for example `Chart("Loss", ("loss",))`.

    Attributes:
        title: What it shows.
        metrics: Names of its metrics without the prefix of evaluations, whose curves are beside those of training.
    """

    title: str
    metrics: tuple[str, ...]

    @property
    def unit(self) -> str:
        """Unit of the values; empty for plain numbers, shares, and names that this version does not know."""
        try:
            unit = metric(self.metrics[0]).unit
        except ValueError:
            return ""
        return "" if unit == "1" else unit

    @property
    def meaning(self) -> str:
        """Definitions of the metrics."""
        return " ".join(f"{name}: {METRICS[name].help}" for name in self.metrics if name in METRICS)


GROUPS: dict[str, tuple[Chart, ...]] = {
    "Preferences": (
        Chart("Loss", ("loss",)),
        Chart("Reward margin", ("rewards/margins",)),
        Chart("Accuracy", ("rewards/accuracies",)),
        Chart("Rewards", ("rewards/chosen", "rewards/rejected")),
        Chart("Log-probabilities", ("logps/chosen", "logps/rejected")),
        Chart("KL from the reference", ("objective/kl",)),
        Chart("Win rate against the reference", ("win_rate",)),
        Chart("Negative log-likelihood", ("nll",)),
        Chart("Brier score", ("rewards/brier",)),
        Chart("Calibration error", ("rewards/ece",)),
    ),
    "Responses and scores": (
        Chart("Score", ("objective/scores", "objective/rlhf_reward")),
        Chart("Range of the scores", ("reward/score/max", "reward/score/mean", "reward/score/min")),
        Chart("Spread of the scores", ("reward/score/std",)),
        Chart("Score margin of the pairs", ("objective/scores_margin",)),
        Chart("Response length", ("response_length/max", "response_length/mean", "response_length/min")),
        Chart("Prompt length", ("prompt_length/max", "prompt_length/mean", "prompt_length/min")),
        Chart("Responses that end", ("val/contain_eos_token",)),
        Chart("Pairs left out", ("pairs/dropped", "pairs/ties", "pairs/failed")),
        Chart("Pairs", ("pairs/count",)),
        Chart("Texts of the judge model without a verdict, or cut off", ("judge/unparsed", "judge/cut")),
        Chart("Lag of the sampling policy", ("pairs/staleness",)),
    ),
    "Optimisation": (
        Chart("Gradient norm", ("grad_norm",)),
        Chart("Learning rate", ("learning_rate",)),
        Chart("Beta", ("beta",)),
        Chart("Entropy", ("entropy",)),
        Chart("Token accuracy", ("mean_token_accuracy",)),
        Chart("Logits", ("logits/chosen", "logits/rejected")),
        Chart("β-DPO: margins", ("beta_dpo/margin_mean", "beta_dpo/margin_std")),
        Chart("β-DPO: selected pairs", ("beta_dpo/selected",)),
        Chart("Experts: balance loss", ("moe/aux_loss",)),
        Chart("Experts: load", ("moe/load_max_over_mean",)),
        Chart("Experts: idle", ("moe/idle_experts",)),
    ),
    "Speed and memory": (
        Chart(
            "Time per phase",
            ("timing/gen", "timing/ref", "timing/adv", "timing/update_actor", "timing/sync", "timing/eval"),
        ),
        Chart("Time of a step", ("timing/all",)),
        Chart("Pairs per second", ("pairs_per_s",)),
        Chart("Tokens per second", ("tokens_per_s", "rollout_tokens_per_s")),
        Chart("Peak memory", ("memory/peak_bytes",)),
        Chart("Micro-batches", ("micro_batches",)),
        Chart("Fill of the micro-batches", ("micro_batch_fill",)),
    ),
}
"""Title of a group to its charts. Metrics of no chart here have one each in the last group."""
OTHER = "Further metrics"


def base_name(name: str, known: Sequence[str] = tuple(METRICS)) -> tuple[str, str]:
    """Split the name of a metric into its set and its name in training.

    Returns:
        "" for training, "eval" for the only evaluation set, else the name of the set; and the base name.
    """
    base = name.removeprefix(EVAL_PREFIX)
    if base == name:
        return "", name
    name_of_set, _, rest = base.partition("/")
    return ("eval", base) if base in known or not rest or _is_term(base) else (f"eval {name_of_set}", rest)


def _is_term(base: str) -> bool:
    return base.startswith(("loss/", CALIBRATION_PREFIX))


def charts_of(names: Sequence[str], *, separate: bool = False) -> Iterator[tuple[str, list[Chart]]]:
    """Yield the groups that have charts, in order.

    Args:
        names: Metrics that the runs have.
        separate: One chart per metric, for several runs.
    """
    bases = dict.fromkeys(base_name(name)[1] for name in names)
    listed = {name for charts in GROUPS.values() for chart in charts for name in chart.metrics}
    for group, charts in GROUPS.items():
        shown = [Chart(chart.title, present) for chart in charts if (present := _present(chart, bases))]
        if separate:
            shown = [_alone(chart, name) for chart in shown for name in chart.metrics]
        if shown:
            yield group, shown
    if others := [Chart(name, (name,)) for name in bases if name not in listed]:
        yield OTHER, others


def _present(chart: Chart, bases: dict[str, None]) -> tuple[str, ...]:
    return tuple(name for name in chart.metrics if name in bases)


def _alone(chart: Chart, name: str) -> Chart:
    return chart if len(chart.metrics) == 1 else Chart(f"{chart.title}: {name.rpartition('/')[2]}", (name,))
