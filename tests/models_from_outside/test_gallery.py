"""Every model of the gallery, by the quick calls; ``benchmarks/outside_models.py`` puts them through all of them."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest

import physzoo
from physzoo.inference.importance import weights_of

from .calls import Trial, posterior_of, run
from .case import Case
from .gallery import CASES
from .units import CASES as IN_UNITS

QUICK = [case for case in CASES if case not in IN_UNITS and not case.name.startswith("10,000")]
SERVED = [case for case in QUICK if not case.refusal or case.served_by]
WIDE = {  # no Gaussian covers these
    *("groups of unknown spread", "a Cauchy prior", "tails that the data leave", "an ordered vector", "an angle"),
    *("Bernoulli flags", "Bernoulli flags as bools", "a derived scalar", "a derived scalar of event dimension 0"),
}


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", SERVED, ids=named)
def test_a_gaussian_at_the_mode_with_its_weights_is_the_posterior_or_says_that_it_is_not(case: Case) -> None:
    trial = Trial(case)
    found = trial.start
    guide = physzoo.amortize(case.model, None, "full", example=case.data, whitening=found)
    physzoo.fit(case.model, guide, case.data, steps=1, learning_rate=1e-6, progress=False)
    if case.refusal:
        with pytest.raises(ValueError, match=case.refusal):
            physzoo.posterior(case.model, guide, case.data, draws=5)
        return
    tree = physzoo.posterior(case.model, guide, case.data, draws=1500, prior=False)
    weights, k_hat = weights_of(tree)
    assert k_hat < 0.7 or case.name in WIDE
    if k_hat < 0.7 and case.name != "tails that the data leave":  # whose draws do not reach where k-hat would grow
        assert trial.judged(posterior_of(tree), 1 / float((weights**2).sum()), weights).verdict == "right"
    assert set(tree["log_likelihood"].data_vars) <= set(case.data)
    if "az.loo" not in case.refused_by and case.name not in WIDE:
        for name in tree["log_likelihood"].data_vars:
            assert np.isfinite(az.loo(tree, var_name=name).elpd)


@pytest.mark.parametrize("case", [case for case in QUICK if case.refusal and not case.served_by], ids=named)
@pytest.mark.parametrize("call", ["amortize(None, full)", "laplace", "pcn", "fit ELBO, AutoNormal"])
def test_what_cannot_be_served_is_refused_in_one_sentence(case: Case, call: str) -> None:
    assert run(Trial(case), call).verdict == "refused"


SOON = ("fit ELBO, AutoNormal", "laplace", "hmc", "az.loo")  # calls that refuse before any work is done
ALONE = [(case, call) for case in QUICK for call in SOON if call in case.refused_by]


@pytest.mark.parametrize(("case", "call"), ALONE, ids=[f"{case.name}-{call}" for case, call in ALONE])
def test_a_call_that_does_not_serve_what_the_others_serve_says_so(case: Case, call: str) -> None:
    assert run(Trial(case), call).verdict == "refused"


def test_the_judge_rejects_draws_that_are_a_fifth_too_narrow() -> None:
    trial = Trial(next(case for case in CASES if case.name == "one scalar"))
    middle = trial.exact["z"].mean()
    draws = trial.case.exact(6000, np.random.default_rng(5))  # type: ignore[misc]
    assert trial.judged(draws, 6000).verdict == "right"
    assert trial.judged({"z": middle + 0.8 * (draws["z"] - middle)}, 6000).verdict == "wrong"
    assert trial.judged({"z": draws["z"] + 0.3 * draws["z"].std()}, 6000).verdict == "wrong"
