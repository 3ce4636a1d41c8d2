"""Probe that imports a library. Argument: `module`. Result: its version."""

from __future__ import annotations

import importlib

from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments

if __name__ == "__main__":
    # Imported by name: any library can be probed, also those that only `device` imports otherwise.
    library = importlib.import_module(probe_arguments()["module"])
    print_result(str(getattr(library, "__version__", "of unknown version")))
