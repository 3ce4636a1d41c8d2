"""What the tests of the optimizer let a process do: some updates, with the gradients that they are made from."""

from __future__ import annotations

from torch import Tensor

from tests.unit.engine.engine_jobs import BATCH, Setup, build, loss_sum, micro_batches

Tensors = dict[str, Tensor]


def updates(setup: Setup, rates: list[float], loss_factor: float) -> tuple[Tensors, list[tuple[Tensors, Tensors]]]:
    """Parameters at the start; for each step the gradient, of the loss times a factor, and the parameters after it."""
    engine = build(setup)
    parameters = dict(engine.model.named_parameters())

    def values() -> Tensors:
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    start, steps = values(), []
    for rate in rates:
        engine.accumulate(
            micro_batches(setup), lambda batch, columns: loss_sum(batch, columns) * loss_factor, BATCH.num_prompts
        )
        gradients = {name: parameter.main_grad.clone() for name, parameter in parameters.items()}
        engine.step(rate)
        steps.append((gradients, values()))
    return start, steps
