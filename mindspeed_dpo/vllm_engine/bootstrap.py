"""The program of a process in the interpreter that vLLM is installed in: `bootstrap.py probe`, `bootstrap.py serve N`.

That interpreter need not have this package or what it depends on. Only the package's own folder is made importable,
without the folders that hold the trainer's other libraries, and without running its `__init__`.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path


def main() -> None:
    """Answer a question, or serve the requests that come over the socket of a descriptor."""
    package = types.ModuleType("mindspeed_dpo")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["mindspeed_dpo"] = package
    sys.path[:1] = []  # the folder of this file
    # Deferred: importable only now, and `probe` must not import the engine.
    if sys.argv[1] == "probe":
        from mindspeed_dpo.vllm_engine.probe import probe

        probe()
    else:
        from mindspeed_dpo.vllm_engine.server import serve

        serve(int(sys.argv[2]))


if __name__ == "__main__":
    main()
