"""Muon: momentum whose update is the nearest orthogonal matrix, for the weight matrices inside a network.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scaled as in Liu et al. 2025, arXiv:2502.16982, so that
an update has about the size of one of AdamW. Embeddings, the head, biases and norms are left to AdamW.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that, applied five times, brings every singular value from (0, 1] to about 1."""


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """U V^T of the matrix U S V^T, approximately: the singular values come out between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for the matrices, AdamW for the rest: one optimizer, as DiLoCo wants one for its inner steps."""

    def __init__(
        self, matrices: list[Tensor], rest: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(group["momentum"]).add_(weight.grad)
                direction = orthogonalized(weight.grad + group["momentum"] * momentum)  # Nesterov's look ahead
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"muon": super().state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])


def inner_optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """`adamw`, or `muon` with the matrices inside the blocks."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    inside = {id(weight) for weight in model.blocks.parameters() if weight.ndim == 2}
    matrices = [weight for weight in model.parameters() if id(weight) in inside]
    return Muon(matrices, [weight for weight in model.parameters() if id(weight) not in inside], lr)
