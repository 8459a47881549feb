"""Two processes, each with its share of the answers: their gradients sum to the whole's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["usual", "pgcore"])
def test_summed_gradients_are_the_whole_batchs(
    loop, double, assert_swap, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    module = loop("data_parallel")
    everything = module.answers(slice(None))
    whole = module.gradient("usual", everything, everything["mask"].sum())
    first, second = module.summed(name, str(tmp_path))
    assert torch.equal(first, second)
    assert_swap(first.numpy(), whole.numpy())


def test_a_share_without_totals_is_a_part_of_another_whole(loop, double):
    module = loop("data_parallel")
    everything = module.answers(slice(None))
    whole = module.gradient("usual", everything, everything["mask"].sum())
    shares = [module.answers(share) for share in module.SHARES]
    alone = sum(module.gradient("pgcore", share, share["mask"].sum()) for share in shares)
    assert (alone / module.RANKS - whole).norm() > 0.1 * whole.norm()
