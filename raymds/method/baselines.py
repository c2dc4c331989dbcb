"""The mathematics of the methods that people compare with, beside those of `solvers` that are a rule for λ.

Legend of shapes: B examples, C classes, D embedding width, m protected tasks.
"""

import numpy as np
import torch
from torch import Tensor

_SMALLEST = 1e-12  # of an eigenvalue, relative to the largest


def gem(gram: Tensor, inner_m: Tensor) -> Tensor:
    """Multipliers v of GEM (arXiv:1706.08840): (m, m) of ⟨g_j, g_k⟩ and (m,) of ⟨g_F, g_k⟩ → (m,), not negative.

    g = g_F + Σ v_k·g_k is the point nearest to g_F with ⟨g, g_k⟩ ≥ 0 for all k: to first order a step along −g raises
    no protected task's loss. This is its dual, min ½·vᵀKv + cᵀv over v ≥ 0, as non-negative least squares.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - a second of import that no other method needs

    K, c = gram.double().cpu().numpy(), inner_m.double().cpu().numpy()
    if not (np.isfinite(K).all() and np.isfinite(c).all()):
        return torch.full((len(K),), torch.nan, dtype=torch.float64)  # a step refuses it with its own words
    length = np.sqrt(np.diag(K))
    length[length == 0] = 1.0
    # A short gradient has its say as a long one: the cone is the same.
    values, vectors = np.linalg.eigh(K / length / length[:, None])
    kept = values > _SMALLEST * max(float(values[-1]), 0.0)
    root = np.sqrt(values[kept])
    R = root[:, None] * vectors[:, kept].T  # K = RᵀR; c lies in the range of K, so c = Rᵀd
    d = (vectors[:, kept].T @ (c / length)) / root
    return torch.from_numpy(nnls(R, -d)[0] / length) if kept.any() else torch.zeros(len(K), dtype=torch.float64)


def masked_info_nce(image_BD: Tensor, text_BD: Tensor, caption_B: Tensor, temperature: float) -> Tensor:
    """CLIP's symmetric contrastive loss in which pairs of the same caption are no negatives of each other.

    `caption_B` numbers the captions. Protected data have one caption for many images.
    """
    logits_BB = image_BD @ text_BD.T / temperature
    labels = torch.arange(len(logits_BB), device=logits_BB.device)
    same = caption_B[:, None] == caption_B[None]
    same[labels, labels] = False
    logits_BB = logits_BB.masked_fill(same, -torch.inf)
    rows = torch.nn.functional.cross_entropy(logits_BB, labels)
    return (rows + torch.nn.functional.cross_entropy(logits_BB.T, labels)) / 2


def distillation(new_BC: Tensor, old_BC: Tensor, temperature: float) -> Tensor:
    """KL divergence of the new model's softmax from the old one's, by cosines with the classes: (B, C) twice → (B,)."""
    new, old = (torch.log_softmax(cosine / temperature, dim=1) for cosine in (new_BC, old_BC))
    return (old.exp() * (old - new)).sum(dim=1)


def focus(old_BC: Tensor, label_B: Tensor, weight: float = 5.0) -> Tensor:
    """Weights of focal distillation (arXiv:2011.09161): what the old model has right counts 1 + `weight`, else 1."""
    return 1 + weight * (old_BC.argmax(dim=1) == label_B)
