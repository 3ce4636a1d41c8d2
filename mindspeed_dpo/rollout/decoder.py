"""The forward pass of generation, in plain torch, over the weights of one pipeline stage that has all layers.

It uses the given tensors, so weights that training updates in place take effect at once; only inside `packed_weights`
it may use repacked copies. Names and shards are Megatron's. Matrix products have either the rows of one prompt, or a
number of rows that does not change the bits of a row, so that results do not depend on the other responses of a batch.

Replicas that share experts exchange tokens in every layer with experts, so all of them make the same number of passes.
Passes of all kinds exchange tokens in the same way: a prompt of one replica may meet a decoding pass of another, and a
replica that has finished makes passes without tokens until all have.

Notation: T tokens of a prompt, R rows of a decoding pass, h hidden size, V vocabulary size, G query groups of this
rank, r query heads per group, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device import ops
from mindspeed_dpo.models.rotary_scaling import amplitude, angles, inverse_frequencies
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.kv_cache import BLOCK, CacheTile, KvCache, Prefix, as_blocks
from mindspeed_dpo.rollout.layer_products import LayerProducts, MoeMlp, ProductFactory
from mindspeed_dpo.rollout.layer_weights import LayerWeights, check_weights

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ModelProducts:
    """Matrix products with all weights of a model."""

    layers: list[LayerProducts]
    head: ops.Product


class RolloutModel:
    """A model that returns next-token logits, equal on all tensor-parallel ranks.

    Attributes:
        shares_experts: Whether other replicas hold some of the experts, so that passes are collectives of all of them.
    """

    def __init__(
        self, model: ModelConfig, weights: Mapping[str, Tensor], tp: TensorGroup, experts: ExpertGroup | None = None
    ) -> None:
        """Use weights without copying them.

        Args:
            model: The architecture.
            weights: This tensor-parallel rank's weights of all layers by Megatron's names, any float dtype, each
                in the shape of this rank's part.
            tp: The tensor-parallel group.
            experts: The ranks that share the experts; by default this rank holds all. They are those of several
                replicas, or some of one.

        Raises:
            ValueError: A tensor is missing or misshapen.
        """
        self.model, self.tp, self.experts = model, tp, experts or ExpertGroup()
        tensors = check_weights(model, weights, tp, self.experts)
        self.shares_experts = model.has_experts and self.experts.size > tp.size
        self.groups = model.num_query_groups // tp.size
        self.ratio = model.num_attention_heads // model.num_query_groups
        self.scale = model.kv_channels**-0.5
        self.embedding = tensors["embedding.word_embeddings.weight"]
        self.layers = [LayerWeights.of(tensors, model, i, self.experts) for i in range(model.num_layers)]
        self.final_norm = tensors["decoder.final_layernorm.weight"]
        self.head = tensors.get("output_layer.weight", self.embedding)
        self.frequencies = inverse_frequencies(model).to(self.embedding.device)
        self.amplitude = amplitude(model)
        self._products = self._build_products(ProductFactory())

    def _build_products(self, make: ProductFactory) -> ModelProducts:
        layers = [LayerProducts.of(layer, self.model, self.tp, self.experts, make) for layer in self.layers]
        return ModelProducts(layers, make.of_matrix(self.head))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedding.device

    @property
    def skips_empty_rows(self) -> bool:
        """Whether a decoding pass may leave out rows of a tile; else it needs all, so that its shape is fixed."""
        return ops.attends_by_slot(self.embedding)

    @contextmanager
    def packed_weights(self, rows: int) -> Iterator[None]:
        """Prepare for decoding passes of up to `rows` rows; weights must not change inside the context.

        On the host the matrices are copied into the layout that is fastest for few rows; see `ops.few_rows_product`.
        """
        plain = self._products
        self._products = self._build_products(ProductFactory(rows))
        try:
            yield
        finally:
            self._products = plain

    def new_cache(self, slots: int, capacity: int, rows: int) -> KvCache:
        """Allocate a cache of `slots` responses of `capacity` positions, in tiles of `rows`."""
        width = self.model.kv_channels
        return KvCache(self.model.num_layers, slots, capacity, rows, self.groups, width, self.embedding)

    @torch.inference_mode()
    def join_pass(self) -> bool:
        """Make a pass without tokens with the replicas that share the experts, if any of them makes one with tokens.

        Returns:
            False once no replica makes a further pass; always False if no other replica has experts of this one.
        """
        if not self.shares_experts or not self.experts.any(False, self.device):
            return False
        for layer in self._products.layers:
            if isinstance(layer.mlp, MoeMlp):
                layer.mlp.without_rows()
        return True

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> tuple[Prefix, Tensor]:
        """Run the forward pass of one prompt.

        Args:
            prompt: [T] integer token ids, T >= 1.

        Returns:
            Its keys and values, and the logits [1, V] float32 of the next token.
        """
        length = len(prompt)
        padding = ops.rows_to_multiply(length, self.embedding) - length
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key, value = key[:length], value[:length]
            keys.append(as_blocks(key).transpose(-1, -2))
            values.append(as_blocks(value))
            window = self.model.sliding_window
            flat = query[:length].flatten(1, 2)
            out = ops.segment_attention(flat, key, value, [length], [length], self.scale, window)
            return F.pad(out, (0, 0, 0, 0, 0, padding))

        tokens = F.pad(prompt.to(self.device).long(), (0, padding))
        hidden = self._decode(tokens, torch.arange(length + padding, device=self.device), attend)[:length]
        return Prefix(torch.stack(keys), torch.stack(values), length), self._logits(hidden[-1:])

    @torch.inference_mode()
    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        tile: CacheTile,
        shared_prefixes: Sequence[tuple[int, int]] | None = None,
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """Append one token to rows of a tile.

        Args:
            tokens: R token ids; rows beyond the tile are padding, rows without a response are ignored.
            positions: Positions of the tokens; 0 for rows without a response.
            tile: The cache of the rows.
            shared_prefixes: For each row, a slot of the tile with the same prefix and the length of that prefix in
                tokens; affects speed only.
            slots: Place of each row in the tile, if the tokens are those of some rows only.

        Returns:
            Logits [R, V] float32 of the next tokens.
        """
        device, window = self.device, self.model.sliding_window
        rows = min(len(tokens), tile.rows)
        places = range(len(tokens)) if slots is None else slots
        ids, at, place = torch.tensor([list(tokens), list(positions), list(places)], device=device)
        first = 0 if window is None else max(0, min(positions) - window + 1) // BLOCK
        last = max(positions) // BLOCK + 1
        same = (
            None
            if shared_prefixes is None
            else torch.tensor([(row, n // BLOCK) for row, n in shared_prefixes], device=device)
        )
        held_by = None if slots is None else place
        reach = ops.VisibleKeys(at[:rows], first, last, BLOCK, window, same, held_by, tile.rows)
        mix = ops.block_attention(
            reach, (self.groups, self.ratio, self.model.kv_channels), self.scale, self.embedding.dtype
        )
        indices = tile.write_indices(at[:rows], place[:rows])

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            tile.append(layer, indices, key[:rows], value[:rows])
            out = mix(query[:rows], tile.keys[layer, first:last], tile.values[layer, first:last])
            return out if rows == len(query) else F.pad(out, (0, 0, 0, 0, 0, 0, 0, len(query) - rows))

        return self._logits(self._decode(ids, at, attend))

    def _decode(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Compute hidden states [tokens, h] after the last layer; `attend` stores keys and values and uses them."""
        if self.shares_experts:
            self.experts.any(True, self.device)
        x = self._embed(tokens)
        cos, sin = angles(positions, self.frequencies, self.amplitude)
        epsilon = self.model.norm_epsilon
        for index, (layer, by) in enumerate(zip(self.layers, self._products.layers, strict=True)):
            mixed = by.qkv(ops.rms_norm(x, layer.attention_norm, epsilon))
            context = attend(index, *self._heads(mixed, layer, cos, sin))
            x = x + self.tp.sum(by.projection(context.reshape(len(x), -1)))
            x = x + self.tp.sum(by.mlp(ops.rms_norm(x, layer.mlp_norm, epsilon)))
        return x

    def _heads(self, mixed: Tensor, layer: LayerWeights, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the fused projection into rotated query [n, G, r, d], rotated key [n, G, d] and value [n, G, d]."""
        blocks = mixed.view(len(mixed), self.groups, self.ratio + 2, -1)
        turned, value = blocks[:, :, : self.ratio + 1], blocks[:, :, self.ratio + 1]
        if layer.query_norm is not None and layer.key_norm is not None:
            norms = (layer.query_norm, self.ratio), (layer.key_norm, 1)
            parts = turned.split([self.ratio, 1], dim=2)
            epsilon = self.model.norm_epsilon
            turned = torch.cat(
                [ops.rms_norm(part, norm, epsilon) for part, (norm, _) in zip(parts, norms, strict=True)], dim=2
            )
        turned = ops.rotate(turned.flatten(1, 2), cos, sin).view(turned.shape)
        return turned[:, :, : self.ratio], turned[:, :, self.ratio], value

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.tp.size == 1:
            return F.embedding(tokens, self.embedding)
        share = len(self.embedding)
        column = tokens - share * self.tp.rank
        here = (column >= 0) & (column < share)
        rows = F.embedding(column.where(here, 0), self.embedding)
        return self.tp.sum(rows * here[:, None])

    def _logits(self, hidden: Tensor) -> Tensor:
        """Compute logits [rows, V] float32 over the unpadded vocabulary."""
        normal = ops.rms_norm(hidden, self.final_norm, self.model.norm_epsilon)
        logits = self.tp.gather_columns(self._products.head(normal).float().contiguous())
        return logits[:, : self.model.vocab_size]
