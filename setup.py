"""Puts `configs` and `examples` into wheels, as `mindspeed_dpo/shipped`; all else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"configs": "*.yaml", "examples": "*.*"}
"""Folders of the repository, and which of their files are shipped."""


class BuildWithShippedFiles(build_py):
    """Copies the folders beside the modules; an editable installation reads them where they are."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for folder, pattern in SHIPPED.items():
            for source in Path(folder).rglob(pattern):
                if source.is_file() and "__pycache__" not in source.parts:
                    target = Path(self.build_lib, "mindspeed_dpo", "shipped", source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithShippedFiles})
