"""METHOD (7)-(10) against naive double loops and autograd."""

import math

import pytest
import torch
from torch import Tensor

from raymds.method import contrastive

T = 0.05


def unit(rows: int, seed: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def naive(e_P: Tensor, t_P: Tensor, e_N: Tensor, t_N: Tensor, t: float) -> tuple[Tensor, list[float], list[float]]:
    """F of METHOD (8) and the normalisers (7), written as the sums they are."""
    total, g_image, g_text = torch.zeros((), dtype=torch.float64), [], []
    for i in range(len(e_P)):
        image = text = torch.zeros((), dtype=torch.float64)
        for j in range(len(e_N)):
            image = image + torch.exp((e_P[i] @ t_N[j] - e_P[i] @ t_P[i]) / t) / len(e_N)
            text = text + torch.exp((e_N[j] @ t_P[i] - e_P[i] @ t_P[i]) / t) / len(e_N)
        total = total + (t * torch.log(image) + t * torch.log(text)) / len(e_P)
        g_image.append(image.item())
        g_text.append(text.item())
    return total, g_image, g_text


@pytest.fixture
def embeddings() -> list[Tensor]:
    return [unit(rows, seed).requires_grad_() for seed, rows in enumerate((5, 5, 7, 7))]


def test_normalisers_and_objective_equal_the_double_loop(embeddings: list[Tensor]) -> None:
    value, g_image, g_text = naive(*embeddings, T)
    logs = [contrastive.log_normaliser(d, T) for d in contrastive.differences(*embeddings)]
    torch.testing.assert_close(logs[0].exp(), torch.tensor(g_image, dtype=torch.float64))
    torch.testing.assert_close(logs[1].exp(), torch.tensor(g_text, dtype=torch.float64))
    torch.testing.assert_close(contrastive.objective(*logs, T), value.detach())


def test_gamma_one_gives_autograds_gradient_of_the_objective(embeddings: list[Tensor]) -> None:
    value, _, _ = naive(*embeddings, T)
    expected = torch.autograd.grad(value, embeddings)
    unseen = torch.full((5,), torch.nan, dtype=torch.float64)
    surrogates = []
    for difference in contrastive.differences(*embeddings):
        log_s = contrastive.track(unseen, contrastive.log_normaliser(difference, T), gamma=1.0)
        surrogates.append(contrastive.surrogate(difference, log_s, T))
    loss = (surrogates[0] + surrogates[1]) / (5 * 7)
    for got, want in zip(torch.autograd.grad(loss, embeddings), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_gradient_with_tracked_normalisers_equals_the_double_loop(embeddings: list[Tensor]) -> None:
    """METHOD (10) with any s: weights are constants, the gradient is of the differences alone."""
    s = torch.tensor([0.3, 1.0, 2.0, 5.0, 0.01], dtype=torch.float64)
    difference, _ = contrastive.differences(*embeddings)
    got = torch.autograd.grad(contrastive.surrogate(difference, s.log(), T) / 35, embeddings[0], retain_graph=True)[0]
    e_P, t_P, _, t_N = (x.detach() for x in embeddings)
    want = torch.zeros_like(e_P)
    for i in range(5):
        for j in range(7):
            weight = math.exp(float(e_P[i] @ t_N[j] - e_P[i] @ t_P[i]) / T) / float(s[i])
            want[i] += weight * (t_N[j] - t_P[i]) / 35
    torch.testing.assert_close(got, want)


def test_tracking_is_the_moving_average_of_the_plain_values() -> None:
    s, g = torch.tensor([2.0, 5.0]), torch.tensor([4.0, 1.0])
    got = contrastive.track(s.log(), g.log(), gamma=0.8).exp()
    torch.testing.assert_close(got, torch.tensor([0.2 * 2 + 0.8 * 4, 0.2 * 5 + 0.8 * 1]))


def test_an_entry_seen_for_the_first_time_starts_at_its_estimate() -> None:
    log_s, log_g = torch.tensor([torch.nan, 0.0]), torch.tensor([3.0, 3.0])
    got = contrastive.track(log_s, log_g, gamma=0.5)
    assert got[0] == 3.0
    assert got[1] < 3.0


def test_nothing_overflows_at_the_coldest_temperature() -> None:
    e_P = torch.tensor([[1.0, 0.0]])
    difference, _ = contrastive.differences(e_P, -e_P, e_P, e_P)  # 1 − (−1) = 2
    log_s = contrastive.track(torch.tensor([torch.nan]), contrastive.log_normaliser(difference, 0.01), 1.0)
    assert float(log_s) == pytest.approx(200)
    assert torch.isfinite(contrastive.surrogate(difference, log_s, 0.01))


def test_info_nce_equals_the_sums_it_is() -> None:
    image, text = unit(4, 1), unit(4, 2)
    expected = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(4):
            denominator = sum(math.exp(float(a[i] @ b[j]) / T) for j in range(4))
            expected -= (float(a[i] @ b[i]) / T - math.log(denominator)) / 8
    assert float(contrastive.info_nce(image, text, T)) == pytest.approx(expected)


def test_a_positive_that_comes_again_counts_with_the_mean_of_its_normalisers() -> None:
    log_g = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, 600.0]], dtype=torch.float64)
    found = contrastive.mean_by(log_g, torch.tensor([1, 0, 1]), 2)
    assert torch.equal(found[0], log_g[1]) or torch.allclose(found[0], log_g[1], rtol=1e-15)
    want = (torch.tensor(1.0).double().exp() + torch.tensor(0.5).double().exp()) / 2
    torch.testing.assert_close(found[1], torch.stack([want.log(), torch.tensor(600 - math.log(2)).double()]))
    once = contrastive.mean_by(log_g, torch.tensor([2, 0, 1]), 3)
    assert torch.equal(once[[2, 0, 1]], log_g)
