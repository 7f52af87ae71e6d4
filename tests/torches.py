"""Between NHWC arrays and PyTorch, the oracle of the tests."""

from __future__ import annotations

import numpy as np
import torch


def nchw(array):
    """An NHWC array as a torch tensor NCHW that collects gradients."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))
    return tensor.requires_grad_()


def nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def close(got, wanted, tolerance=1e-12):
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else wanted
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
