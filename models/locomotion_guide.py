"""The guide of walking: model and guide are started at PCA of the training strides, the physics is fitted first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pyro.nn import PyroModule
from torch import Tensor

from ..core.global_state import seeded
from ..core.simulate import simulate
from ..guides.cleansing import CleansingGuide, cleansing_guide
from .grey_box import joined
from .pca import PCA, SEEN, LinearCode, SkipEncoder, start_at
from .stride_augmentation import augmented


class Walker(Protocol):
    """What the guide asks of a model of walking."""

    sites: Mapping[str, int]

    @property
    def physics_code(self) -> int: ...
    @property
    def code_size(self) -> int: ...
    def __call__(self, x: Tensor | None = None, mask: Tensor | None = None) -> Any: ...
    def start_at_pca(self, x: Tensor) -> LinearCode: ...
    def start_correction(self, x: Tensor, unknowns: Tensor) -> LinearCode: ...
    def physics_alone(self, x: Tensor | None, mask: Tensor | None) -> Tensor: ...


class PhysicsAlone(PyroModule):
    """The physics of a model as a generative model of its own, to be fitted first."""

    def __init__(self, model: Walker) -> None:
        super().__init__()
        self.whole = model

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the unknowns, predict, observe x."""
        return self.whole.physics_alone(x, mask)


def locomotion_guide(
    model: Walker,
    example: Mapping[str, Tensor],
    *,
    data: Tensor | None = None,
    physics_steps: int = 0,
    inner: str | None = None,
    inner_options: Mapping[str, Any] | None = None,
    family: Any = "full",
    physics_family: Any = "full",
    seed: int = 0,
    **options: Any,
) -> CleansingGuide:
    """Start the model at PCA of the training strides and build its guide q(z_A2 | x) q(physics | h(x, z_A2)) there.

    Args:
        model: changed in place (``start_at_pca``).
        example: {"x": one stride, "mask": ...}.
        data: (N, 101, 3) training strides; None, for a guide whose weights are loaded next, starts from the model's draws
            and does no physics_steps.
        physics_steps: steps in which H and the guide of the physics are fitted alone; then the correction starts at the
            principal components of what they leave. 0: the start is exactly PCA, with a quadratic H.
        inner: None for perceptrons, or the name of an encoder for the network's features, e.g. "attention".
        inner_options: of that encoder.
        family, physics_family: families with an affine end: "diagonal", "full", "planar", "spline".
        seed: of the initial weights.
        **options: of ``cleansing_guide``.

    Raises:
        ValueError: a model without a code of the correction, or strides of another shape or too few.
    """
    if data is None:
        data, physics_steps = simulate(model, 256, seed=seed)["x"], 0
    code = model.start_at_pca(data)
    seen = PCA.fit(data, min(SEEN, len(data) - 1))
    physics, rest = code.rows(0, model.physics_code), code.rows(model.physics_code, model.code_size)

    def encoder(part: LinearCode, given: Mapping[str, Tensor]) -> SkipEncoder:
        return SkipEncoder(given, part, seen, inner, **(inner_options or {}))

    with seeded(seed):
        encoder_of_rest = encoder(rest, example)
        guide = cleansing_guide(
            model, example, data=data, seed=seed, family=family, physics_family=physics_family,
            encoder=encoder_of_rest, physics_encoder=encoder(physics, {"x": example["x"]}), **options,
        )  # fmt: skip
    if guide.codes is None:
        raise ValueError("model: got one without a code of the correction, expected correction_code of at least 1")
    start_at(guide.physics, physics)
    if physics_steps:
        from ..inference.fit.driver import fit
        from ..inference.fit.sources import DataSets  # a default only, so that the models load without the driver

        fit(
            PhysicsAlone(model), guide.physics, DataSets({"x": augmented(data, 8000, seed)}, batch_size=50),
            steps=physics_steps, learning_rate=3e-3, seed=seed, progress=False, max_skipped=10, warmup=0.02,
        )  # fmt: skip
        with seeded(seed):
            drawn = guide.physics.sample({"x": data}, 32)
        rest = model.start_correction(data, joined(drawn, tuple(model.sites)).mean(0))
        encoder_of_rest.begin(rest)
    start_at(guide.codes, rest)
    return guide
