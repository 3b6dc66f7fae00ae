"""The example's Muon against its definition, computed the long way."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "diloco"

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def muon() -> ModuleType:
    spec = importlib.util.spec_from_file_location("muon_example", EXAMPLE / "muon.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4)])
def test_the_polynomial_acts_on_the_singular_values_alone(muon: ModuleType, shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    expected = s / s.norm()
    for _ in range(5):
        a, b, c = muon.COEFFICIENTS
        expected = a * expected + b * expected**3 + c * expected**5
    torch.testing.assert_close(muon.orthogonalized(matrix), u @ torch.diag(expected) @ v, rtol=1e-5, atol=1e-5)
    assert expected.min() > 0.6
    assert expected.max() < 1.25


def test_two_steps_are_those_of_the_definition(muon: ModuleType) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.nn.Parameter(torch.randn(6, 3, generator=generator)), torch.nn.Parameter(torch.ones(3))
    other = torch.nn.Parameter(bias.detach().clone())
    optimizer = muon.Muon([weight], [bias], lr=0.01, momentum=0.9, weight_decay=0.1)
    adamw = torch.optim.AdamW([other], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    expected, momentum = weight.detach().clone(), torch.zeros(6, 3)
    for _ in range(2):
        gradient = torch.randn(6, 3, generator=generator)
        weight.grad, bias.grad, other.grad = gradient.clone(), torch.full((3,), 0.5), torch.full((3,), 0.5)
        optimizer.step()
        adamw.step()
        momentum = 0.9 * momentum + gradient
        update = muon.orthogonalized(gradient + 0.9 * momentum)
        expected = expected - 0.01 * (0.1 * expected + 0.2 * 6**0.5 * update)
    torch.testing.assert_close(weight.detach(), expected)
    torch.testing.assert_close(bias.detach(), other.detach())


def test_its_state_survives_a_checkpoint(muon: ModuleType) -> None:
    def made() -> tuple[torch.nn.Parameter, torch.nn.Parameter, torch.optim.Optimizer]:
        weight, bias = torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.ones(3))
        return weight, bias, muon.Muon([weight], [bias], lr=0.01)

    def stepped(weight: torch.Tensor, bias: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        weight.grad, bias.grad = torch.arange(9.0).view(3, 3), torch.arange(3.0)
        optimizer.step()

    one = made()
    stepped(*one)
    two = made()
    with torch.no_grad():
        two[0].copy_(one[0])
        two[1].copy_(one[1])
    two[2].load_state_dict(copy.deepcopy(one[2].state_dict()))  # as a file would
    stepped(*one)
    stepped(*two)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
