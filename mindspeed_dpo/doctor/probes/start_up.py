"""Probe of a worker's start: device, libraries, patches, then megatron-core. Argument: `kind`. Result: a sentence."""

from __future__ import annotations

from mindspeed_dpo.device import activate
from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments

if __name__ == "__main__":
    accelerator = activate(probe_arguments()["kind"])
    # Deferred: it imports megatron-core, which must follow the activation of the device.
    import mindspeed_dpo.parallel.process_groups  # noqa: F401

    print_result(f"{accelerator.kind} is active and megatron-core loads; backend {accelerator.backend}")
