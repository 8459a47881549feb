"""Fixtures of the loops' tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def double():
    """PyTorch in double precision, on one thread: what the loops compute is small."""
    torch = pytest.importorskip("torch")
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield torch
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


@pytest.fixture
def slopes():
    """Return a function from a PyTorch loss to the loss and its gradient, one flat NumPy array."""
    torch = pytest.importorskip("torch")

    def of(loss, model):
        gradients = torch.autograd.grad(loss, [*model.parameters()], retain_graph=True)
        return torch.cat([loss.reshape(1), *map(torch.flatten, gradients)]).detach().numpy()

    return of
