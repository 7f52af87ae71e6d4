"""A fully connected layer and its gradients, with the bias and the activation after it.

``activation`` is "none", "relu" or "tanh". Shapes: ``x`` [n, ci], ``w`` [ci, co], ``bias`` [co], ``out`` of `linear`
and ``dy`` [n, co].
"""

from __future__ import annotations

from gridnn.kernels.reference.elementwise import row_tiles
from gridnn.kernels.table import Kernels
from gridnn.kernels.tiles import Array


def linear(
    kernels: Kernels, x: Array, w: Array, bias: Array | None, activation: str, out: Array, masked: bool = False
) -> Array | None:
    """Write activation(x w + bias) to ``out``.

    Returns
    -------
    array or None
        Of a ReLU, if ``masked``, where it is positive, in a form that only `linear_grad_input` of the same kernels
        reads; None where they do without.
    """
    kernels.matmul(x, w, out)
    kernels.finish(out, bias, activation)
    return None


def linear_grad_weight(kernels: Kernels, x: Array, dy: Array, out: Array, db: Array | None) -> None:
    """Write the gradient of the weights to ``out``, and that of the bias to ``db``."""
    kernels.matmul(x.T, dy, out)
    if db is not None:
        kernels.sum_rows(dy, db)


def linear_grad_input(
    kernels: Kernels, dy: Array, w: Array, activation: str, y: Array, mask: Array | None, out: Array
) -> None:
    """Write the gradient of the input to ``out`` [n, ci], times the derivative of the activation that made it.

    Parameters
    ----------
    activation : str
        What ``y`` [n, ci], the input, is the output of.
    mask : array or None
        What `linear` returned when it made ``y``.
    """
    kernels.matmul(dy, w.T, out)
    kernels.activation_grad(y, activation, out)


def finish(kernels: Kernels, out: Array, bias: Array | None, activation: str) -> None:
    """Add a ``bias`` per channel to ``out`` [..., co] and apply the activation, in place."""
    if bias is not None:
        out += bias
    if activation != "none":
        getattr(kernels, activation)(out, out)


def activation_grad(kernels: Kernels, y: Array, activation: str, out: Array) -> None:
    """Multiply ``out`` by the derivative of the activation whose output is ``y``, in place."""
    for tile in row_tiles(y.shape) if activation != "none" else ():
        part, value = out[tile], y[tile]
        part *= value > 0 if activation == "relu" else 1 - value * value
