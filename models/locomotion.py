"""Walking as a Hamiltonian system with a learnt Hamiltonian: three joint angles over one stride.

    dq/dt = dH/dp,  dp/dt = -dH/dq,    x_n = posture + q(t_n) + f_B(z; t_n) + noise,    t = 0, 0.01 ... 1 of the stride

    posture        ~ Normal(learnt)     rad, the angles of hip, knee and ankle about which q swings
    initial_state  ~ Normal(learnt)     (q, p) at heel strike, rad; p in the units in which H starts as w (q^2 + p^2) / 2
    z_A2           ~ Normal(0, I)       code of the correction f_B

q are the angles themselves: no learnt linear map stands between physics and data. H is learnt, one function for all people,
of the kind whose motions all have the period of one stride (``PeriodicHamiltonian``); its equations are solved in closed form.
f_B = linear in all codes + a small network. Model and guide start at PCA of the same code size (``locomotion_guide``), and
R_predictive of ``GreyBoxELBO`` makes the physics take over what it can. Noise sd: learnt, one for each joint.

What a person's stride lacks in periodicity (its end differs from its beginning by .03 rad) only f_B can describe.

Source: Takeishi & Kalousis, arXiv:2102.13156, section 4.4; data: Lencioni et al., Sci. Data 6:309 (2019); the closed form,
the posture and the start by physzoo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..core.require import shown
from ..physics.grey_box import Decoded
from ..physics.ode.hamiltonian import PeriodicHamiltonian
from .datasets.simulated import Simulated
from .grey_box import GreyBox, joined
from .locomotion_guide import locomotion_guide
from .pca import PCA, SEEN, LinearCode, LinearPlusNetwork
from .recipe import Quantity, Training, trained_by
from .registry import Animal, register

POINTS, JOINTS = 101, 3
JOINT_NAMES = ("hip", "knee", "ankle")
UNKNOWNS = 3 * JOINTS  # posture, q(0), p(0)
TRAINING: dict[str, Any] = {
    "guide": {"physics_steps": 1000},
    "objective": {"predictive": 0.003, "cleansing": 0.001, "sleep": 0.05},
    "steps": 2500,
    "learning_rate": 1e-3,
    "batch_size": 100,
    "finish": {"steps": 1500, "learning_rate": 1e-3, "batch_size": 128},
}


class Locomotion(GreyBox):
    """Joint angles of one stride, x of shape (101, 3) in rad.

    Args:
        correction_code: length of z_A2; 12 makes 21 numbers a stride with the 9 of the physics.
        multiples: frequencies of the normal modes, in strides^-1.
        depth, width: of the canonical map that makes H.
        hidden: widths of the correction's network.
        scale: noise sd at the start, rad.
    """

    sites: Mapping[str, int] = {"posture": JOINTS, "initial_state": 2 * JOINTS}
    times: Tensor

    def __init__(
        self,
        correction_code: int = 12,
        multiples: Sequence[int] = (1, 1, 1),
        depth: int = 8,
        width: int = 32,
        hidden: Sequence[int] = (128, 128),
        scale: float = 0.013,
    ) -> None:
        super().__init__({"z_A2": correction_code}, scale, "learnt", event_dim=2)
        self.log_scale = nn.Parameter(self.log_scale.detach().expand(JOINTS).clone())
        self.hamiltonian = PeriodicHamiltonian(list(multiples), 1.0, depth, width, rate=3.0)
        self.correction = LinearPlusNetwork(self.physics_code + correction_code, POINTS * JOINTS, hidden)
        self.register_buffer("times", torch.linspace(0, 1, POINTS))
        self._start_unknowns()

    @property
    def physics_code(self) -> int:
        """Numbers a stride in the physics."""
        return sum(self.sites.values())

    @property
    def code_size(self) -> int:
        """Numbers a stride in all latent sites."""
        return self.physics_code + sum(self.codes.values())

    @property
    def sd(self) -> Tensor:
        """The root mean square of the joints' noise sd, rad."""
        return self.log_scale.detach().exp().square().mean().sqrt()

    def _start_unknowns(self) -> None:
        self.prior_loc = nn.Parameter(torch.zeros(UNKNOWNS))
        self.prior_log_sd = nn.Parameter(torch.full((UNKNOWNS,), -2.0))

    def priors(self) -> Mapping[str, Any]:
        """Return the learnt priors of posture and initial state."""
        sizes = list(self.sites.values())
        locs, sds = self.prior_loc.split(sizes), self.prior_log_sd.exp().split(sizes)
        return {name: dist.Normal(m, s).to_event(1) for name, m, s in zip(self.sites, locs, sds, strict=True)}

    def unknowns(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return posture, q(0) and p(0) as one vector, (..., 9)."""
        return joined(z, ("posture", "initial_state"))

    def phase_path(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return (q, p) along the stride, (..., T, 6)."""
        times = self.times if times is None else times.to(self.times)
        return self.hamiltonian.flow(self.unknowns(z)[..., JOINTS:], times)

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the angles of the Hamiltonian motion, (..., T, 3), rad; times are parts of a stride, any of them."""
        posture = self.unknowns(z)[..., None, :JOINTS]
        return posture + self.phase_path(z, times)[..., :JOINTS]

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, (..., T, 3) each; there are no learnt dynamics beside H.

        Raises:
            ValueError: times outside [0, 1], where the correction is not defined.
        """
        alone = self.physics(z, times)
        code = joined(z, (*self.sites, "z_A2"))
        correction = self.correction(code).unflatten(-1, (POINTS, JOINTS))
        if times is not None:
            correction = _interpolated(correction, times.to(correction))
        return Decoded(alone + correction, alone, alone + correction, alone)

    @torch.no_grad()
    def start_at_pca(self, x: Tensor) -> LinearCode:
        """Make the decoder that of PCA with ``code_size`` components of (N, 101, 3) strides; return its encoder.

        The unknowns of the physics are those of the best-fitting motion of the starting, quadratic H; z_A2 spans what is
        left of the components, uncorrelated with them.

        Raises:
            ValueError: strides of another shape, or fewer than ``code_size`` + 1.
        """
        if x.ndim != 3 or x.shape[1:] != (POINTS, JOINTS):
            raise ValueError(f"x: got {shown(x)}, expected (N, {POINTS}, {JOINTS})")
        found = PCA.fit(x, self.code_size)
        scores = (x.flatten(1) - found.mean) @ found.axes.T
        functional, centre = self._start_physics(scores, found)  # unknowns = centre + scores functional
        unknowns = scores @ functional
        covariance = unknowns.T @ scores
        along = torch.linalg.solve(unknowns.T @ unknowns, covariance)  # scores that go with each unknown
        rest = scores - unknowns @ along
        size = self.code_size - self.physics_code
        _, spread, axes = torch.linalg.svd(rest, full_matrices=False)
        sd, axes = (spread[:size] / (len(x) - 1) ** 0.5)[:, None], axes[:size]
        encoder = torch.cat([functional.T, (axes / sd) @ (torch.eye(len(scores.T)).to(x) - functional @ along).T])
        decoder = torch.cat([along, sd * axes])
        effect = decoder @ found.axes
        centre = torch.cat([centre, centre.new_zeros(size)])
        start = self._split(centre)
        here = self.physics(start).flatten()
        moved = centre + torch.eye(len(centre)).to(x)
        physics = self.physics(self._split(moved)).flatten(1) - here  # zero for z_A2
        self.correction.set(found.mean - here, effect - physics, centre, effect)
        weight = encoder @ found.axes
        return LinearCode(weight, centre - weight @ found.mean, self.sd / effect.norm(dim=-1))

    @torch.no_grad()
    def start_correction(self, x: Tensor, unknowns: Tensor) -> LinearCode:
        """Fit the linear correction to what given unknowns of the physics leave of strides; return the encoder of z_A2.

        z_A2 are principal components of the part of the strides that goes with no unknown; then least squares of the
        rest x - physics(unknowns) on unknowns and z_A2.

        Args:
            x: (N, 101, 3) strides.
            unknowns: (N, k), the code of the physics of each.
        """
        size, found = self.code_size - self.physics_code, PCA.fit(x, min(SEEN, len(x) - 1))
        scores = (x.flatten(1) - found.mean) @ found.axes.T
        centre = unknowns.mean(0)
        known = unknowns - centre
        rest = scores - known @ torch.linalg.lstsq(known, scores).solution
        _, spread, axes = torch.linalg.svd(rest, full_matrices=False)
        sd = spread[:size] / (len(x) - 1) ** 0.5
        functional = torch.linalg.lstsq(scores, rest @ axes[:size].T / sd).solution
        design = torch.cat([known, scores @ functional], -1)
        left = x.flatten(1) - self.physics(self._split(torch.cat([unknowns, design[:, known.shape[1] :]], -1))).flatten(
            1
        )
        added = torch.linalg.lstsq(design, left - left.mean(0)).solution
        effect = torch.cat([torch.linalg.lstsq(known, scores).solution @ found.axes, added[known.shape[1] :]])
        self.correction.set(left.mean(0), added, torch.cat([centre, centre.new_zeros(size)]), effect)
        weight = functional.T @ found.axes
        return LinearCode(weight, -weight @ found.mean, self.sd / effect[known.shape[1] :].norm(dim=-1))

    def _linear_motions(self, like: Tensor) -> Tensor:
        """d(angles)/d(posture, q(0), p(0)) while H is still quadratic, (9, 303)."""
        unit = torch.eye(UNKNOWNS).to(like)
        moved = self.hamiltonian.flow(unit[:, JOINTS:], self.times)[..., :JOINTS]
        return (unit[:, None, :JOINTS] + moved).flatten(1)

    def _start_physics(self, scores: Tensor, found: PCA) -> tuple[Tensor, Tensor]:
        """Set the priors; return the unknowns of the best-fitting motion as a linear function of the scores."""
        fit = torch.linalg.pinv(self._linear_motions(scores))
        functional, centre = found.axes @ fit, found.mean @ fit
        self.prior_loc.copy_(centre)
        self.prior_log_sd.copy_((scores @ functional).std(0).log())
        return functional, centre

    def _split(self, code: Tensor) -> dict[str, Tensor]:
        sizes = [*self.sites.values(), *self.codes.values()]
        return dict(zip([*self.sites, *self.codes], code.split(sizes, -1), strict=True))


def _interpolated(values: Tensor, times: Tensor) -> Tensor:
    """Values (..., 101, 3) on the grid, linear between its points, at times (T,)."""
    if bool(((times < 0) | (times > 1)).any()):
        raise ValueError(f"times: got {shown(times)} with values outside [0, 1], expected parts of one stride")
    place = times * (POINTS - 1)
    low = place.floor().long().clamp_max(POINTS - 2)
    part = (place - low).unsqueeze(-1)
    return values[..., low, :] * (1 - part) + values[..., low + 1, :] * part


DATA = Simulated("locomotion")
STRIDE = Quantity("joint angle", "rad", ("percent", "joint"), {"percent": tuple(range(POINTS)), "joint": JOINT_NAMES})
SOURCE = "Takeishi & Kalousis, NeurIPS 2021, arXiv:2102.13156; real strides: Lencioni et al., Sci. Data 6:309 (2019)"

register(
    Animal(
        name="locomotion",
        title="Joint angles of human strides, physics-integrated VAE",
        physics="Hamilton's equations, learnt energy",
        likelihoods=("forward",),
        model=Locomotion,
        data=DATA.one,
        quantities={
            "posture": Quantity("mean angle", "rad", ("joint",), {"joint": JOINT_NAMES}),
            "initial_state": Quantity("(q, p) when the heel touches the ground", "rad", ("component",)),
            "z_A2": Quantity("code of the correction", "1", ("correction_code",)),
            "x": STRIDE,
        },
        recipe=trained_by(TRAINING),
        priors={
            "posture": "Normal, learnt",
            "initial_state": "Normal, learnt",
            "z_A2": "Normal(0, I)",
        },
        source=SOURCE,
        training=Training(
            splits=DATA.splits,
            make=locomotion_guide,
            guide=TRAINING["guide"],
            objective=TRAINING["objective"],
            finish=TRAINING["finish"],
        ),
    )
)
