"""A guide that is fitted to a sampler's draws covers the posterior; bad draws are named."""

import pytest
import torch
from conjugate import Linear

from physzoo.guides import amortize
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import DrawsKL

Y = torch.tensor([0.4, -0.3, 0.9, 0.1], dtype=torch.float64)


def exact_draws(count: int) -> dict[str, torch.Tensor]:
    mean, covariance = Linear().posterior(Y)
    torch.manual_seed(0)
    x = torch.distributions.MultivariateNormal(mean, covariance).sample(torch.Size((count,)))
    return {"z": x[:, :2], "rate": x[:, 2].exp()}


def test_the_flow_covers_what_the_draws_cover() -> None:
    model, data = Linear(), {"y": Y}
    guide = amortize(model, None, "full", example=data, seed=1)
    fit(model, guide, data, DrawsKL(exact_draws(4000)), steps=600, learning_rate=2e-2, seed=2, progress=False)
    drawn = guide.sample(data, 20_000)
    found = torch.cat([drawn["z"], drawn["rate"].log().unsqueeze(-1)], -1)
    mean, covariance = model.posterior(Y)
    sd = covariance.diagonal().sqrt()
    assert float(((found.mean(0) - mean) / sd).abs().max()) < 0.1
    assert torch.allclose(found.std(0) / sd, torch.ones_like(sd), atol=0.06)


def test_draws_that_do_not_fit_are_refused() -> None:
    draws = exact_draws(10)
    with pytest.raises(ValueError, match=r"draws: got \{'z': 10, 'rate': 4\}, expected as many draws"):
        DrawsKL({**draws, "rate": draws["rate"][:4]})
    with pytest.raises(ValueError, match="draws: got none"):
        DrawsKL({})
    with pytest.raises(ValueError, match="batch"):
        DrawsKL(draws, batch=0)


def test_it_is_of_one_data_set() -> None:
    model = Linear()
    guide = amortize(model, "mlp", "full", example={"y": Y}, seed=1)
    many = DataSets({"y": Y.expand(6, -1)}, batch_size=3)
    with pytest.raises(ValueError, match="data: got 3 data sets, expected one"):
        fit(model, guide, many, DrawsKL(exact_draws(10)), steps=1, progress=False)
