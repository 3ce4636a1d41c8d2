"""The tokens that end a response of a role: those of its tokenizer, template and generation config."""

from __future__ import annotations

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.tokenization.template_file import load_template
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, stop_token_ids
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights


def stop_ids(role: RoleConfig) -> frozenset[int]:
    """Return the ids of the tokens that end a response: of tokenizer, template and generation config.

    Raises:
        FileNotFoundError: The tokenizer or template file does not exist.
        ValueError: One of them cannot be read.
    """
    data = role.data
    if data.tokenizer_name_or_path is None:
        return frozenset()
    has_template = data.prompt_type is not None and data.prompt_type not in SPECIAL_PROMPT_TYPES
    template = load_template(str(data.prompt_type), data.prompt_type_path) if has_template else None
    source = open_initial_weights(role)
    return stop_token_ids(load_tokenizer(data.tokenizer_name_or_path), template, source.assets() if source else None)
