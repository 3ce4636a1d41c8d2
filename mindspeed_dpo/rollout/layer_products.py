"""The matrix products of one layer of a model that generates, and its feed-forward part, dense or with experts.

Notation: n rows, equal on all tensor-parallel ranks; h hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device import ops
from mindspeed_dpo.models.moe.router import Routing, route, router_logits
from mindspeed_dpo.models.moe.token_dispatch import TokenDispatch
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.layer_weights import ExpertWeights, LayerWeights, MlpWeights


@dataclass(frozen=True)
class ProductFactory:
    """Builds products with weights.

    Attributes:
        rows: Most rows of a decoding pass, for which matrices may be copied into another layout; None uses them as they
            are.
    """

    rows: int | None = None

    def of_matrix(self, weight: Tensor, bias: Tensor | None = None) -> ops.Product:
        """Build the product with a matrix [out, in] of any float dtype and a bias [out]."""
        if self.rows is None:
            return partial(ops.linear, weight, bias)
        return ops.few_rows_product(weight, bias, self.rows)

    def of_router(self, weight: Tensor) -> ops.Product:
        """Build the product of rows of any float dtype with a router's matrix [E, in], in float32."""
        if self.rows is None:
            return partial(router_logits, weight=weight)
        wide = torch.promote_types(weight.dtype, torch.float32)
        product = ops.few_rows_product(weight.to(wide), None, self.rows)
        return lambda rows: product(rows.to(wide))

    def of_matrices(self, weights: Sequence[Tensor]) -> ops.GroupedProduct:
        """Build the product of runs of rows with matrices [out, in] of any float dtype."""
        return ops.grouped_product(weights, packed=self.rows is not None)


@dataclass(frozen=True)
class Mlp:
    """A gated feed-forward layer."""

    gate_up: ops.Product
    down: ops.Product

    @classmethod
    def of(cls, weights: MlpWeights, make: ProductFactory) -> Mlp:
        """Build the products of a layer."""
        return cls(make.of_matrix(weights.gate_up), make.of_matrix(weights.down))

    def __call__(self, x: Tensor) -> Tensor:
        """Map activations [n, h], any float dtype, to this rank's part of the sum over tensor-parallel ranks."""
        return self.down(ops.swiglu(self.gate_up(x)))


@dataclass(frozen=True)
class MoeMlp:
    """The feed-forward part of a layer with experts.

    Each tensor-parallel rank routes its own share of the rows, so that no token is computed twice.
    """

    model: ModelConfig
    weights: ExpertWeights
    tp: TensorGroup
    dispatch: TokenDispatch
    router: ops.Product
    gate_up: ops.GroupedProduct
    down: ops.GroupedProduct
    shared: Mlp | None
    shared_gate: ops.Product | None

    @classmethod
    def of(
        cls, weights: ExpertWeights, model: ModelConfig, tp: TensorGroup, experts: ExpertGroup, make: ProductFactory
    ) -> MoeMlp:
        """Build the products of a layer."""
        return cls(
            model,
            weights,
            tp,
            TokenDispatch(experts, model.num_experts or 0),
            router=make.of_router(weights.router),
            gate_up=make.of_matrices([expert.gate_up for expert in weights.experts]),
            down=make.of_matrices([expert.down for expert in weights.experts]),
            shared=None if weights.shared is None else Mlp.of(weights.shared, make),
            shared_gate=None if weights.shared_gate is None else make.of_matrix(weights.shared_gate),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Map activations [n, h], any float dtype, to this rank's part of the sum; a collective of the expert group."""
        own = self.tp.own_rows(len(x))
        routing = route(self.router(x)[own], self.model, self.weights.router_bias)
        output = self.dispatch.apply(self._experts, x[own].contiguous(), routing)
        output = F.pad(output, (0, 0, own.start, len(x) - own.stop))
        return output if self.shared is None else output + self._gated(self.shared(x), x)

    def without_rows(self) -> None:
        """Compute the rows that other ranks send to this rank's experts; a collective of the expert group."""
        router, k = self.weights.router, self.model.moe_router_topk
        weights = torch.empty(0, k, dtype=torch.float32, device=router.device)
        chosen = torch.empty(0, k, dtype=torch.int64, device=router.device)
        logits = torch.empty(0, len(router), dtype=torch.float32, device=router.device)
        self.dispatch.apply(self._experts, router.new_empty(0, router.shape[1]), Routing(weights, chosen, logits))

    def _experts(self, rows: Tensor, counts: Tensor) -> Tensor:
        return self.down(ops.swiglu(self.gate_up(rows, counts)), counts)

    def _gated(self, output: Tensor, x: Tensor) -> Tensor:
        return output if self.shared_gate is None else output * self.shared_gate(x).sigmoid()


@dataclass(frozen=True)
class LayerProducts:
    """Matrix products with the weights of one layer, named as in `LayerWeights`."""

    qkv: ops.Product
    projection: ops.Product
    mlp: Callable[[Tensor], Tensor]

    @classmethod
    def of(
        cls, layer: LayerWeights, model: ModelConfig, tp: TensorGroup, experts: ExpertGroup, make: ProductFactory
    ) -> LayerProducts:
        """Build the products of a layer."""
        return cls(
            qkv=make.of_matrix(layer.qkv, layer.qkv_bias),
            projection=make.of_matrix(layer.projection),
            mlp=Mlp.of(layer.mlp, make)
            if isinstance(layer.mlp, MlpWeights)
            else MoeMlp.of(layer.mlp, model, tp, experts, make),
        )
