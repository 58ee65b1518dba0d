"""Muon (Jordan et al., 2024): momentum whose update is made orthogonal, for the matrices inside the blocks.

The singular values of the momentum are pushed towards one by Newton-Schulz steps with the coefficients of
Amsel et al. ("The Polar Express", 2025); matrices of one shape are worked on together.
"""

from collections import defaultdict

import torch
from torch import Tensor

COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


def orthogonal(stack: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly, of a (count, rows ≤ columns) stack."""
    x = stack.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.float()


class Muon:
    """`step(rate)` moves every matrix by `rate` times an orthogonal matrix, scaled by its shape."""

    def __init__(self, matrices: list[Tensor], momentum: float = 0.95, weight_decay: float = 0.05):
        self.matrices, self.momentum, self.weight_decay = matrices, momentum, weight_decay
        self.moments = [torch.zeros_like(m) for m in matrices]
        self.groups = defaultdict(list)
        for i, matrix in enumerate(matrices):
            self.groups[tuple(sorted(matrix.shape))].append(i)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for indices in self.groups.values():
            updates = []
            for i in indices:
                gradient = self.matrices[i].grad
                self.moments[i].lerp_(gradient, 1 - self.momentum)
                update = gradient.lerp(self.moments[i], self.momentum)
                updates.append(update if update.shape[0] <= update.shape[1] else update.T)
            for i, update in zip(indices, orthogonal(torch.stack(updates))):
                matrix = self.matrices[i]
                rows, columns = matrix.shape
                update = update if rows <= columns else update.T
                matrix.mul_(1 - rate * self.weight_decay)
                matrix.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> list[Tensor]:
        return self.moments

    def load_state_dict(self, moments: list[Tensor]) -> None:
        self.moments = moments
