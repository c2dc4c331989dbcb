"""The global contrastive objective and its tracked normalisers, METHOD (7)-(10).

Legend of shapes: P positives, N negatives, D embedding width. Embeddings have unit norm. Everything that could
overflow is kept as a logarithm: exp(2/0.01) does not fit in fp32.
"""

import math

import torch
from torch import Tensor


def differences(image_PD: Tensor, text_PD: Tensor, image_ND: Tensor, text_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Numerators of the exponents of METHOD (7).

    Returns (P, N) each: ⟨e_i,t_j⟩ − ⟨e_i,t_i⟩ (image side) and ⟨e_j,t_i⟩ − ⟨e_i,t_i⟩ (text side).
    """
    aligned_P1 = (image_PD * text_PD).sum(-1, keepdim=True)
    return image_PD @ text_ND.T - aligned_P1, text_PD @ image_ND.T - aligned_P1


def log_normaliser(difference_PN: Tensor, temperature: float) -> Tensor:
    """log g(i) of METHOD (7) for each positive: (P, N) → (P,), no gradient."""
    return torch.logsumexp(difference_PN.detach() / temperature, dim=1) - math.log(difference_PN.shape[1])


def mean_by(log_g_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """log of the mean g of the entries of each row, (P, 2), (P,) → (rows, 2); of one entry that one exactly."""
    if rows == len(log_g_P):
        return torch.empty_like(log_g_P).index_copy(0, row_P, log_g_P)
    own = row_P == torch.arange(rows, device=row_P.device)[:, None]  # (rows, P)
    return log_g_P.where(own[..., None], -math.inf).logsumexp(dim=1) - own.sum(dim=1, keepdim=True).log()


def track(log_s: Tensor, log_g: Tensor, gamma: float) -> Tensor:
    """Moving average s ← (1−γ)·s + γ·ĝ in log space, METHOD (9), elementwise.

    An entry of `log_s` that is NaN has never been seen and starts at ĝ.
    """
    if gamma == 1.0:
        return log_g.clone()
    mixed = torch.logaddexp(log_s + math.log1p(-gamma), log_g + math.log(gamma))
    return torch.where(log_s.isnan(), log_g, mixed)


def surrogate(difference_PN: Tensor, log_s_P: Tensor, temperature: float) -> Tensor:
    """Sum over pairs of sg[exp(diff/t)/s(i)]·diff, whose gradient is that of METHOD (10) before its means."""
    weight_PN = torch.exp(difference_PN.detach() / temperature - log_s_P.to(difference_PN.dtype)[:, None])
    return (weight_PN * difference_PN).sum()


def objective(log_g_image: Tensor, log_g_text: Tensor, temperature: float) -> Tensor:
    """F of METHOD (8) from the normalisers of a batch: (P,), (P,) → scalar."""
    return temperature * (log_g_image + log_g_text).mean()


def info_nce(image_BD: Tensor, text_BD: Tensor, temperature: float) -> Tensor:
    """The symmetric contrastive loss of CLIP (arXiv:2103.00020) over a whole batch; used for pretraining alone."""
    logits_BB = image_BD @ text_BD.T / temperature
    labels = torch.arange(logits_BB.shape[0], device=logits_BB.device)
    rows = torch.nn.functional.cross_entropy(logits_BB, labels)
    columns = torch.nn.functional.cross_entropy(logits_BB.T, labels)
    return (rows + columns) / 2
