"""Between channels-last arrays and PyTorch, the oracle of the tests."""

from __future__ import annotations

import numpy as np
import torch


def nchw(array):
    """A channels-last array as a torch tensor with channels first that collects gradients."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))
    return tensor.requires_grad_()


def nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def close(got, wanted, tolerance=1e-12):
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else wanted
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def check_against(run, function, x, tolerance=1e-12, seed=1):
    """y and dx of the layer ``run`` against ``function`` of a torch tensor with channels first."""
    y = run.forward(x)
    dy = np.random.default_rng(seed).normal(size=y.shape)
    (dx,) = run.backward(dy)
    tx = nchw(x)
    ty = function(tx)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty), tolerance)
    close(dx, nhwc(tx.grad), tolerance)
