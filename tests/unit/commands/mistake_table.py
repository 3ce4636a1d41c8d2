"""All usual mistakes by chapter: what the tests try and what docs/mistakes.md lists."""

from __future__ import annotations

from tests.unit.commands.data_mistakes import DATA, PREPROCESSING, REWARDS
from tests.unit.commands.mistake import Mistake
from tests.unit.commands.tool_mistakes import CONVERSION, OTHER_TOOLS
from tests.unit.commands.training_mistakes import COMMAND_LINE, CONFIGURATION, LAYOUT, MODELS, OUTPUTS

CHAPTERS: dict[str, tuple[Mistake, ...]] = {
    "Command line": COMMAND_LINE,
    "Configuration files": CONFIGURATION,
    "Models and weights": MODELS,
    "Data": DATA,
    "Rewards": REWARDS,
    "Layout and devices": LAYOUT,
    "Outputs and resuming": OUTPUTS,
    "Preprocessing": PREPROCESSING,
    "Conversion": CONVERSION,
    "Migration and doctor": OTHER_TOOLS,
}
"""Title of a chapter -> its mistakes."""
