"""Muon against its definition: singular values near 1, the same singular vectors, momentum by hand."""

import pytest
import torch

from biomni_lib.rl.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (1, 5)])
def test_singular_values_go_to_about_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.linspace(0.2, 3.0, min(shape), dtype=torch.float64)
    made = orthogonalize(left @ torch.diag(values) @ right)
    turned = left.T @ made @ right.T  # diagonal when the singular vectors are the same
    assert made.shape == torch.Size(shape)
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), atol=1e-9, rtol=0)
    assert ((turned.diagonal() > 0.6) & (turned.diagonal() < 1.3)).all()


def test_the_length_of_a_gradient_does_not_matter_and_no_gradient_is_no_step() -> None:
    torch.manual_seed(1)
    gradient = torch.randn(6, 5)
    torch.testing.assert_close(orthogonalize(gradient), orthogonalize(1000 * gradient), atol=1e-4, rtol=1e-4)
    assert orthogonalize(torch.zeros(3, 3)).abs().max() == 0


def test_two_steps_by_hand() -> None:
    torch.manual_seed(2)
    start, first, second = torch.randn(3, 12, 4)
    weight, idle = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = Muon([weight, idle], lr=0.1, momentum=0.9)
    buffer, expected = torch.zeros_like(start), start.clone()
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
        buffer = 0.9 * buffer + 0.1 * gradient
        expected = expected - 0.1 * 3**0.5 * orthogonalize(0.1 * gradient + 0.9 * buffer)  # 12 / 4 rows a column
    torch.testing.assert_close(weight.data, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(idle.data, start)


def test_it_descends() -> None:
    torch.manual_seed(3)
    target, weight = torch.randn(6, 6), torch.nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
    assert float((weight.detach() - target).norm()) < 0.2 * float(target.norm())
