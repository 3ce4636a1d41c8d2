"""Identity preference optimisation, normalised by length or not."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import margin, per_token


def ipo_loss(scores: Tensor, lengths: Tensor, *, beta: float, ipo_normalize: bool = True) -> Tensor:
    """IPO loss (r_w/n_w - r_l/n_l - 1/(2 beta))^2, after equation 17 of Azar et al. 2023 (arXiv:2310.12036).

    Normalised, log-ratios are means per token, as TRL and MindSpeed-LLM do offline, so that one beta serves responses
    of any length; else they are sums, as both do online and the paper has it.

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        beta: Inverse of twice the wanted margin in nats, per token where normalised.
        ipo_normalize: Divide log-ratios by the response's length.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1 / (4 beta^2).

    Raises:
        ValueError: The scores are not [P, 2], or the lengths are not alike.
    """
    wanted = 1 / (2 * beta)
    return (margin(per_token(scores, lengths) if ipo_normalize else scores) - wanted) ** 2
