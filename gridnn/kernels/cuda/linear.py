"""Fully connected layers on the GPU: what follows a product in one pass, or in the product's own kernel."""

from __future__ import annotations

from typing import Any

from gridnn.kernels.reference.kernels import ReferenceKernels
from gridnn.kernels.tiles import Array


class CupyLinear(ReferenceKernels):
    """`Linear` with the bias and the activation in one pass; by cuBLASLt's epilogues in none.

    Attributes
    ----------
    epilogues : Epilogues or None
        cuBLASLt, where nvmath-python is installed.
    """

    fuses = True
    epilogues: Any = None

    def linear(
        self, x: Array, w: Array, bias: Array | None, activation: str, out: Array, masked: bool = False
    ) -> Array | None:
        if self.epilogues is not None:
            done, mask = self.epilogues.linear(x, w, bias, activation, out, masked)
            if done:
                return mask
        return super().linear(x, w, bias, activation, out, masked)

    def linear_grad_weight(self, x: Array, dy: Array, out: Array, db: Array | None) -> None:
        if db is None or self.epilogues is None or not self.epilogues.grad_weight(x, dy, out, db):
            super().linear_grad_weight(x, dy, out, db)

    def linear_grad_input(self, dy: Array, w: Array, activation: str, y: Array, mask: Array | None, out: Array) -> None:
        if mask is None or self.epilogues is None or not self.epilogues.grad_input(dy, w, mask, out):
            super().linear_grad_input(dy, w, activation, y, mask, out)

    def finish(self, out: Array, bias: Array | None, activation: str) -> None:
        if bias is None:
            super().finish(out, bias, activation)
        else:
            self.bias_activation(out, bias, activation, out)

    def activation_grad(self, y: Array, activation: str, out: Array) -> None:
        if activation != "none":
            getattr(self, f"{activation}_grad")(y, out, out)
