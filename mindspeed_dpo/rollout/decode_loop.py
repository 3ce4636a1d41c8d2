"""The loop of one generation call: admission of prompts, decoding passes, release of finished responses."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.rollout.cache_slots import Slots
from mindspeed_dpo.rollout.mixture_policy import TokenModel
from mindspeed_dpo.rollout.repetition_penalty import new_seen_mask
from mindspeed_dpo.rollout.sampling import draw, uniforms


@dataclass
class DecodeStats:
    """Counts of a generation call.

    Attributes:
        prefills: Number of prompts read.
        decode_passes: Number of decoding passes, each of up to `decode_rows` rows.
        decoded_tokens: Number of rows of those passes that held a response.
        response_tokens: Number of tokens of all responses, including those sampled after a prefill.
        moves: Number of responses moved to another slot to empty a tile.
        cache_tokens: Number of positions of the cache.
        joined_passes: Number of passes without tokens, for the tokens of replicas that share experts.
    """

    prefills: int = 0
    decode_passes: int = 0
    decoded_tokens: int = 0
    response_tokens: int = 0
    moves: int = 0
    cache_tokens: int = 0
    joined_passes: int = 0


@dataclass
class Response:
    """A response being generated.

    Attributes:
        prompt: Index of its prompt in the call.
        prompt_length: Length of the prompt in tokens.
        numbers: [max_new_tokens] float64 uniform numbers, one per token.
        tokens: Token ids sampled so far.
        logps: Their log-probabilities, in nats.
        ended: Whether the last token is a stop token.
    """

    prompt: int
    prompt_length: int
    numbers: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def next_number(self) -> float:
        """Uniform number of the next token."""
        return float(self.numbers[len(self.tokens)])

    @property
    def last_position(self) -> int:
        """Position of the last token, which is the next input."""
        return self.prompt_length + len(self.tokens) - 1


class DecodeLoop:
    """State of one generation call and the loop over its prompts."""

    def __init__(
        self,
        model: TokenModel,
        settings: RolloutConfig,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        with_logps: bool,
        work: DecodeStats,
    ) -> None:
        self._model, self._settings = model, settings
        self._max_new_tokens, self._stop_ids, self._with_logps = max_new_tokens, stop_ids, with_logps
        self._work = work
        # Responses to the last prompt read that have no slot yet, and the prefix of that prompt.
        self._pending: deque[Response] = deque()
        self._prefix: Any = None
        self._prompt_seen: Tensor | None = None

    def run(
        self, prompts: Sequence[Tensor], sample_numbers: Sequence[int], seed: int, slots: int, capacity: int
    ) -> list[list[Response]]:
        """Generate the responses to all prompts.

        Args:
            prompts: Prompts, each [length] integer token ids.
            sample_numbers: Sample number of each prompt.
            seed: Seed of the run.
            slots: Number of responses that are decoded concurrently.
            capacity: Positions per slot.

        Returns:
            The K responses to each prompt.
        """
        responses = [
            [
                Response(place, len(prompt), uniforms(seed, number, k, self._max_new_tokens))
                for k in range(self._settings.n_samples_per_prompt)
            ]
            for place, (prompt, number) in enumerate(zip(prompts, sample_numbers, strict=True))
        ]
        self._waiting = deque(zip(prompts, responses, strict=True))
        self._slots: Slots[Response] = Slots(slots, self._settings.decode_rows)
        self._cache = self._model.new_cache(slots, capacity, self._settings.decode_rows)
        self._work.cache_tokens = slots * capacity
        self._seen = self._new_mask(len(self._cache.tiles) * self._settings.decode_rows)
        self._admit()
        while self._slots.owners:
            self._decode_tiles()
            self._admit()
        return responses

    def _admit(self) -> None:
        """Fill free slots; once no response is waiting, compact the slots in use instead."""
        while self._slots.has_free and (self._pending or self._waiting):
            if not self._pending:
                self._read(*self._waiting.popleft())
                continue
            response = self._pending.popleft()
            slot = self._slots.take(response)
            assert self._prefix is not None
            self._cache.write(slot, self._prefix)
            if self._seen is not None and self._prompt_seen is not None:
                self._seen[slot] = self._prompt_seen[0]
                self._seen[slot, response.tokens[0]] = True
        if not self._pending and not self._waiting:
            self._prefix = None
            for source, target, response in self._slots.compact():
                self._cache.move(source, target, response.last_position)
                if self._seen is not None:
                    self._seen[target] = self._seen[source]
                self._work.moves += 1

    def _read(self, prompt: Tensor, responses: list[Response]) -> None:
        """Prefill a prompt and sample the first token of each of its responses from the same logits."""
        self._prefix, logits = self._model.prefill(prompt)
        self._work.prefills += 1
        self._prompt_seen = self._new_mask(1)
        if self._prompt_seen is not None:
            self._prompt_seen[0, prompt.to(logits.device).long()] = True
        k = len(responses)
        seen = None if self._prompt_seen is None else self._prompt_seen.expand(k, -1)
        drawn = self._draw(logits.expand(k, -1), [response.next_number for response in responses], seen)
        for response, (token, logp) in zip(responses, drawn.tolist(), strict=True):
            if not self._add(response, int(token), logp):
                self._pending.append(response)

    def _decode_tiles(self) -> None:
        """Decode one token of every response, with a single transfer to the host."""
        rows = {tile: self._rows(tile) for tile in self._slots.tiles()}
        drawn = torch.cat([self._decode_rows(tile, in_pass) for tile, in_pass in rows.items()]).tolist()
        decoded = [(tile, row, response) for tile, in_pass in rows.items() for row, response in in_pass]
        for (tile, row, response), (token, logp) in zip(decoded, drawn, strict=True):
            if response is None:
                continue
            self._work.decoded_tokens += 1
            if self._add(response, int(token), logp):
                self._slots.release(tile * self._settings.decode_rows + row)

    def _rows(self, tile: int) -> list[tuple[int, Response | None]]:
        """List the rows of the pass over a tile: those with a response, or all where the model needs them."""
        used = self._slots.in_tile(tile)
        if self._model.skips_empty_rows:
            return list(used)
        owners = dict(used)
        return [(row, owners.get(row)) for row in range(self._settings.decode_rows)]

    def _decode_rows(self, tile: int, rows: list[tuple[int, Response | None]]) -> Tensor:
        """Decode rows of a tile; returns token id and log-probability of each, [R, 2] float32, on the device."""
        count = len(rows)
        tokens, positions, numbers = [0] * count, [0] * count, [0.0] * count
        shared_prefixes = [(row, 0) for row, _ in rows]
        first_of: dict[int, int] = {}
        for place, (row, response) in enumerate(rows):
            if response is None:
                continue
            shared_prefixes[place] = first_of.setdefault(response.prompt, row), response.prompt_length
            tokens[place], positions[place] = response.tokens[-1], response.last_position
            numbers[place] = response.next_number
        held = self._cache.tiles[tile]
        slots = [row for row, _ in rows] if self._model.skips_empty_rows else None
        logits = self._model.decode(tokens, positions, held, shared_prefixes[: held.rows], slots)
        self._work.decode_passes += 1
        return self._draw_and_mark(logits, numbers, [tile * self._settings.decode_rows + row for row, _ in rows])

    def _draw_and_mark(self, logits: Tensor, numbers: list[float], slots: list[int]) -> Tensor:
        """Sample as `_draw` does and note the tokens as seen in these slots."""
        if self._seen is None:
            return self._draw(logits, numbers, None)
        place = torch.tensor(slots, device=logits.device)
        drawn = self._draw(logits, numbers, self._seen.index_select(0, place))
        self._seen[place, drawn[:, 0].long().clamp(min=0)] = True
        return drawn

    def _draw(self, logits: Tensor, numbers: list[float], seen: Tensor | None) -> Tensor:
        """Sample token id and log-probability of each row, [R, 2] float32, which holds any token id; rank 0 decides."""
        at = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        tokens, logps = draw(logits, at, self._settings, seen, self._with_logps)
        return self._model.tp.broadcast_from_first(torch.stack((tokens.float(), logps), dim=-1))

    def _add(self, response: Response, token: int, logp: float) -> bool:
        """Append a token and return whether the response is finished.

        Raises:
            FloatingPointError: The logits were not finite.
        """
        if token < 0:
            raise FloatingPointError(
                "the policy's logits are not finite, so no token can be sampled; check that its weights were loaded "
                "completely and that training did not diverge"
            )
        response.tokens.append(token)
        response.logps.append(logp)
        response.ended = token in self._stop_ids
        self._work.response_tokens += 1
        return response.ended or len(response.tokens) == self._max_new_tokens

    def _new_mask(self, rows: int) -> Tensor | None:
        return new_seen_mask(self._settings, rows, self._model.model.vocab_size, self._model.device)
