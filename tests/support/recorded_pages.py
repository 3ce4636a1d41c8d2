"""Small folders of runs for the report, and a reader of its pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HTML = '</pre></style><script src="http://elsewhere/x.js">alert(1)</script><img src=x onerror=alert(2)>"\'&amp;'
"""A text that would run a script, load an image and end its element if it were not escaped."""
HOSTILE = f"{HTML}\0\x1b\ud800"
"""The same with characters that HTML does not have."""
VOID = {"meta", "link", "img", "br", "hr", "input"}
REFERENCES = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
CONFIG = """name: offline_dpo_trainer_tiny
training: {train_iters: 12, log_interval: 1, eval_data_path: {chat: held/out}}
actor_rollout_ref:
  actor_rollout: {load: models/tiny, data_path: data/pairs, lr: 0.001}
"""


def metrics_lines(num_steps: int = 12, **changes: float) -> str:
    """Lines of metrics.jsonl with training, two evaluation sets, phases, and a metric of no known chart."""
    lines = []
    for step in range(1, num_steps + 1):
        record: dict[str, Any] = {
            "step": step, "time": 1_790_000_000 + step, "loss": 0.7 - step / 100, "rewards/margins": step / 10,
            "rewards/accuracies": 1.0, "rewards/chosen": step / 20, "rewards/rejected": -step / 20,
            "timing/ref": 0.1, "timing/update_actor": 0.5, "timing/all": 0.6, "memory/peak_bytes": 4e8 + step,
            "loss/sft": 0.1 * step, "pairs_per_s": 12.5, "learning_rate": 1e-6, "grad_norm": 1 / step, **changes,
        }  # fmt: skip
        if step % 4 == 0:
            record.update({f"eval/{name}/loss": 0.71 - step / 100 for name in ("chat", "code")})
        lines.append(json.dumps(record) + "\n")
    return "".join(lines)


def run_folder(folder: Path, config: str = CONFIG, metrics: str | None = None) -> Path:
    """A folder of a run, with hostile texts wherever a user or a model writes some."""
    (folder / "logs").mkdir(parents=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics_lines() if metrics is None else metrics, encoding="utf-8")
    (folder / "logs/driver_0.log").write_text(
        f"[2026-01-01 00:00:00] INFO a.b: fine\n[2026-01-01 00:00:01] WARNING a.b: beware of {HOSTILE}\n" * 2,
        encoding="utf-8",
        errors="replace",
    )
    samples = [
        {"step": 12, "row": 3, "prompt": HOSTILE, "response": f"{number} {HOSTILE}", "num_tokens": 4 + number,
         "score": score, "ended": True, "role": role}
        for number, (score, role) in enumerate([(0.5, "rejected"), (2.0, "chosen"), (None, "")])
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples), encoding="utf-8")
    pair = {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": HOSTILE}
    examples = [{"margin": margin, **pair} for margin in (-1.5, 2.5)]
    margins = {"start": -2.0, "width": 1.0, "counts": [1, 0, 2, 3]}
    (folder / "eval_margins.json").write_text(json.dumps({"step": 12, "margins": margins, "examples": examples}))
    facts = {
        "plan": ["plan: dpo, 12 steps", HTML], "notes": [HTML], "environment": {"torch": "2.7.1", "odd": HTML},
        "lengths": {"prompt": {"start": 0.0, "width": 8.0, "counts": [1, 5]}}, "first_step": 0,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The elements of a page: it must be well-formed, with every element closed in order.

    Attributes:
        tags: Names of all elements.
        references: What elements refer to outside of themselves.
        handlers: Names of attributes that would run a script.
        titles: Captions of the charts.
        legends: Names of the series in the charts.
        text: Text outside of styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.titles: list[str] = []
        self.legends: list[str] = []
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in REFERENCES]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, (tag, self._open[-3:], self.getpos())
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "style":
            assert "url(" not in data and "@import" not in data
            return
        self.text += data
        if self._open and self._open[-1][0] == "figcaption":
            self.titles.append(data.strip())
        if len(self._open) > 1 and self._open[-2][1] == "legend":
            self.legends.append(data.strip())

    def assert_is_self_contained(self) -> None:
        """Nothing is loaded, nothing runs, and no element came out of a text."""
        assert all(reference.startswith(("#", "data:,")) for reference in self.references), self.references
        assert not self.handlers
        assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(self.tags)
