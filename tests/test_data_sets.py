"""The data of the physics-integrated VAEs: what the generators claim, and what the readers take and refuse."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor

from physzoo.models.datasets import (
    SYSTEMS,
    Split,
    Splits,
    advection_diffusion,
    gait_files,
    galaxy,
    galaxy10,
    hold_out,
    locomotion,
    partition,
    pendulum,
    published,
    system,
)
from physzoo.physics import ODEProblem

SMALL = {
    "pendulum": lambda seed: pendulum.generate(seed, (4, 3, 3)),
    "advection_diffusion": lambda seed: advection_diffusion.generate(seed, (20, 10, 15)),
    "galaxy": lambda seed: galaxy.generate(seed, (6, 4, 5), size=32),
    "locomotion": lambda seed: locomotion.generate(seed, (20, 10, 15)),
}


@cache
def small(name: str) -> Splits:
    """Seed 0, made once."""
    return SMALL[name](0)


def tensors(splits: Splits) -> dict[str, Tensor]:
    """Every tensor of the splits by name."""
    found: dict[str, Tensor] = {}
    for part, split in splits.items():
        found[f"{part} x"] = split.x
        found |= {f"{part} {name}": value for name, value in {**split.truths, **split.covariates}.items()}
        if split.times is not None:
            found[f"{part} times"] = split.times
    return found


def draws(ranges: dict[str, tuple[float, float]], n: int = 200, seed: int = 0) -> dict[str, Tensor]:
    """n unknowns, uniform in their ranges, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
        for name, (low, high) in ranges.items()
    }


# -- every system -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_seed_gives_the_same_data_and_another_seed_others(name: str) -> None:
    first, again, other = SMALL[name](3), SMALL[name](3), SMALL[name](4)
    assert all(torch.equal(value, tensors(again)[key]) for key, value in tensors(first).items())
    assert not torch.equal(first.train.x, other.train.x)
    assert first.test is not None
    # no sequence of one split is in another, nor in the splits of the next seed
    everything = torch.cat([first.train.x, first.valid.x, first.test.x, other.train.x]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything)


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_saved_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    splits = small(name)
    splits.save(tmp_path / "data.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
    loaded = Splits.load(tmp_path / "data.npz", name)
    assert tensors(loaded).keys() == tensors(splits).keys()
    assert all(torch.equal(value, tensors(loaded)[key]) for key, value in tensors(splits).items())
    assert all(value.dtype == torch.float32 for value in tensors(loaded).values())
    assert (loaded.system, loaded.source, loaded.licence, loaded.seed) == (name, splits.source, splits.licence, 0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_size_of_a_split_leaves_the_others_as_they_are(name: str) -> None:
    generate: Any = SYSTEMS[name].generate
    options = {"size": 16} if name == "galaxy" else {}
    few, many = generate(1, (2, 2, 3), **options), generate(1, (2, 9, 3), **options)
    assert torch.equal(few.test.x, many.test.x)


def test_default_sizes_are_the_published_ones() -> None:
    sizes = {name: inspect.signature(system(name).generate).parameters["sizes"].default for name in SYSTEMS}
    assert sizes["pendulum"] == sizes["advection_diffusion"] == (1000, 500, 1000)
    assert sizes["locomotion"] == (400, 100, 344)
    assert sum(sizes["galaxy"]) == 589


# -- pendulum ---------------------------------------------------------------------------------------------------


def energy(path: Tensor, omega: Tensor) -> Tensor:
    """theta'^2 / 2 - omega^2 cos theta, (N, T)."""
    return 0.5 * path[..., 1] ** 2 - omega[:, None] ** 2 * torch.cos(path[..., 0])


def test_pendulum_without_friction_and_forcing_keeps_its_energy() -> None:
    truths = draws(pendulum.RANGES)
    truths |= {name: torch.zeros(200, dtype=torch.float64) for name in ("gamma", "A")}
    found = energy(pendulum.trajectories(truths), truths["omega"])
    assert float((found - found[:, :1]).abs().max()) < 1e-6


def test_pendulum_with_friction_alone_loses_energy() -> None:
    truths = {**draws(pendulum.RANGES), "A": torch.zeros(200, dtype=torch.float64)}
    truths["gamma"] = truths["gamma"].clamp_min(0.1)
    found = energy(pendulum.trajectories(truths), truths["omega"])
    assert bool((found.diff(dim=-1) < 1e-9).all())
    assert bool((found[:, -1] < found[:, 0]).all())


def test_pendulum_forced_at_small_angles_equals_the_closed_form() -> None:
    # without friction, sin theta = theta: A omega^2 (cos 2 pi f t - cos omega t) / (omega^2 - (2 pi f)^2)
    truths = {**draws(pendulum.RANGES), "gamma": torch.zeros(200, dtype=torch.float64)}
    truths |= {"theta0": torch.zeros(200, dtype=torch.float64), "A": torch.full((200,), 1e-3, dtype=torch.float64)}
    t, omega, drive = pendulum.frame_times(50), truths["omega"][:, None], 2 * math.pi * truths["f"][:, None]
    exact = 1e-3 * omega**2 * (torch.cos(drive * t) - torch.cos(omega * t)) / (omega**2 - drive**2)
    # |theta| stays below 1e-4, so that theta^3 / 6 is below 2e-13 of a restoring force under 1e-3
    assert float((pendulum.trajectories(truths)[..., 0] - exact).abs().max()) < 2e-9


def test_pendulum_is_within_1e_8_of_a_tighter_solution_and_of_another_method() -> None:
    truths = draws(pendulum.RANGES, 100)
    path = pendulum.trajectories(truths)
    assert float((path - pendulum.trajectories(truths, tolerance=1e-13)).abs().max()) < 1e-8
    state = torch.stack([truths["theta0"], torch.zeros_like(truths["theta0"])], -1)
    problem = ODEProblem(pendulum.forced_damped, pendulum.frame_times(50), method="rk4", substeps=100)
    fine = problem.solve({**{name: truths[name] for name in ("omega", "gamma", "f", "A")}, "initial_state": state})
    assert float((path - fine).abs().max()) < 1e-8


def test_pendulum_noise_and_truths_are_as_declared() -> None:
    split = pendulum.generate(5, (1000, 1, 1)).train
    residual = split.x.double() - pendulum.trajectories(split.truths)[..., :1]
    n = residual.numel()
    assert abs(float(residual.mean())) < 4 * pendulum.NOISE / math.sqrt(n)
    assert abs(float(residual.std()) / pendulum.NOISE - 1) < 4 / math.sqrt(2 * n)
    for name, (low, high) in pendulum.RANGES.items():
        truth, width = split.truths[name].double(), high - low
        assert low - 1e-6 <= float(truth.min())
        assert float(truth.max()) <= high + 1e-6
        assert abs(float(truth.mean()) - (low + high) / 2) < 4 * width / math.sqrt(12 * len(split))


def test_pendulum_counterfactuals_change_omega_alone() -> None:
    truths = draws(pendulum.RANGES, 50)
    assert torch.equal(pendulum.counterfactual(truths, 1.0), pendulum.trajectories(truths)[..., :1])
    slower = pendulum.trajectories({**truths, "omega": 0.2 * truths["omega"]})[..., :1]
    assert torch.equal(pendulum.counterfactual(truths, 0.2), slower)
    # without friction and forcing, omega sets the clock: twice omega is the same path twice as fast
    free = {**truths, **{name: torch.zeros(50, dtype=torch.float64) for name in ("gamma", "A")}}
    assert torch.allclose(
        pendulum.counterfactual(free, 2.0)[:, :25], pendulum.trajectories(free)[:, ::2, :1], rtol=0, atol=1e-8
    )
    with pytest.raises(ValueError, match="factor: got 0, expected"):
        pendulum.counterfactual(truths, 0)


# -- advection-diffusion ----------------------------------------------------------------------------------------


def test_exact_propagator_equals_runge_kutta_at_a_small_step() -> None:
    truths = draws(advection_diffusion.RANGES)
    matrix = advection_diffusion.generator_matrix(truths["a"], truths["b"])
    problem = ODEProblem(
        lambda t, state, z: (z["matrix"] @ state[..., None])[..., 0],
        advection_diffusion.frame_times(50),
        method="rk4",
        substeps=10,
        event_dims={"matrix": 2},
    )
    fine = problem.solve({"matrix": matrix, "initial_state": advection_diffusion.initial_temperature(truths["c"])})
    assert float((advection_diffusion.trajectories(truths) - fine).abs().max()) < 1e-8


def test_central_differences_converge_at_order_2_on_a_smooth_temperature() -> None:
    # sin(pi x) with the ghost values inside the matrix's reach zero at neither end: the inner points alone
    a, b = torch.tensor(0.07, dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)
    x = 0.1 * torch.arange(20, dtype=torch.float64)
    errors = []
    for k in (1.0, 0.5):
        field = torch.sin(k * x)
        exact = -a * k**2 * torch.sin(k * x) - b * k * torch.cos(k * x)
        errors.append(float((advection_diffusion.generator_matrix(a, b) @ field - exact)[1:-1].abs().max()))
    # half the wave number is half the step: the relative error falls fourfold, on terms that fall 2 to 4 fold
    assert errors[0] < 0.1**2 * (0.07 / 12 + 0.04 / 6) * 1.01
    assert errors[1] < errors[0] / 7


def test_heat_decays_temperatures_stay_positive_and_the_flow_carries_them_on() -> None:
    truths = draws(advection_diffusion.RANGES)
    path = advection_diffusion.trajectories(truths, 1000)
    assert bool((path.sum(-1).diff(dim=-1) < 0).all())
    assert float(path.min()) >= 0
    x = torch.arange(20, dtype=torch.float64)
    middle = (path * x).sum(-1) / path.sum(-1)
    assert bool((middle[:, 49] > middle[:, 0]).all())


def test_temperatures_go_on_past_the_50_frames_and_are_linear_in_c() -> None:
    truths = draws(advection_diffusion.RANGES, 20)
    path = advection_diffusion.trajectories(truths, 600)
    assert torch.equal(path[:, :50], advection_diffusion.trajectories(truths))
    matrix = advection_diffusion.generator_matrix(truths["a"], truths["b"])
    start = advection_diffusion.initial_temperature(truths["c"])
    leap = (torch.linalg.matrix_exp(599 * advection_diffusion.STEP * matrix) @ start[..., None])[..., 0]
    assert torch.allclose(path[:, -1], leap, rtol=1e-9, atol=1e-12)
    doubled = advection_diffusion.trajectories({**truths, "c": 2 * truths["c"]}, 600)
    assert torch.allclose(doubled, 2 * path, rtol=1e-12, atol=0)


# -- galaxies ---------------------------------------------------------------------------------------------------


def disk_truths(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(values[name], dtype=torch.float64) for name in galaxy.RANGES}


def test_flux_of_a_disk_tends_to_its_closed_form_as_pixels_shrink() -> None:
    z = disk_truths(I0=0.8, A=0.06, e=0.5, angle=0.7)
    exact = 2 * math.pi * 0.06**2 * 0.5 * 0.8
    errors = [abs(float(galaxy.disk(z, n).sum()) * (2 / n) ** 2 / exact - 1) for n in (50, 200, 800)]
    assert errors[2] < 1e-4
    assert errors[2] < errors[1] < errors[0]


def test_disk_has_period_pi_in_the_angle_and_its_axes_have_the_ratio_one_minus_e() -> None:
    z = disk_truths(I0=1.0, A=0.2, e=0.6, angle=0.4)
    assert torch.allclose(galaxy.disk(z), galaxy.disk({**z, "angle": z["angle"] + math.pi}), rtol=0, atol=1e-12)
    assert not torch.allclose(galaxy.disk(z), galaxy.disk({**z, "angle": z["angle"] + math.pi / 2}), atol=1e-2)
    level = galaxy.disk({**z, "angle": torch.zeros((), dtype=torch.float64)}, 401)
    x, y = galaxy.pixels(401)
    inside = level > math.exp(-2.0)
    assert float(x[inside].max()) == pytest.approx(0.4, abs=0.005)
    assert float(y[inside].max()) == pytest.approx(0.16, abs=0.005)


def test_angle_runs_counter_clockwise_from_the_horizontal_as_the_image_is_seen() -> None:
    image = galaxy.disk(disk_truths(I0=1.0, A=0.3, e=0.8, angle=math.pi / 4), 33)
    # row 0 is the top: the long axis runs from bottom left to top right
    assert float(image[4, 28]) > 10 * float(image[4, 4])


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_a_turned_or_mirrored_disk_is_the_disk_at_the_turned_angle(turns: int, flip: bool) -> None:
    z = disk_truths(I0=0.9, A=0.2, e=0.6, angle=0.5)
    angle = (-z["angle"] if flip else z["angle"]) + turns * math.pi / 2
    turned = galaxy.symmetry(galaxy.disk(z), turns, flip)
    assert torch.allclose(turned, galaxy.disk({**z, "angle": angle}), rtol=0, atol=1e-12)


def test_augmentation_shows_all_eight_positions_equally_often() -> None:
    image = galaxy.disk({**disk_truths(I0=0.9, A=0.2, e=0.6, angle=0.5), "centre": torch.tensor([0.2, 0.1])}, 8)
    n = 800
    found = galaxy.augment(image.expand(n, 3, 8, 8), torch.Generator().manual_seed(0))
    positions = torch.stack([galaxy.symmetry(image, k % 4, k >= 4) for k in range(8)])
    counts = (found[:, None, 0] == positions).all(-1).all(-1).sum(0)
    assert int(counts.sum()) == n
    # seven degrees of freedom: chi-square stays under 24.3 with probability 0.999
    assert float(((counts - n / 8) ** 2 / (n / 8)).sum()) < 24.3
    with pytest.raises(ValueError, match=r"x: got shape \(2, 3, 4, 5\), expected square"):
        galaxy.augment(torch.zeros(2, 3, 4, 5))


def test_a_synthetic_galaxy_without_neighbours_is_its_disk_in_noise() -> None:
    split = galaxy.generate(2, (40, 1, 1), size=32).train
    alone = (split.truths["neighbours"] == 0).nonzero().squeeze(-1)
    assert 0 < len(alone) < 40
    z = {name: value[alone].double() for name, value in split.truths.items()}
    clean = z["colour"][..., None, None] * galaxy.disk(z, 32)[:, None] + galaxy.BACKGROUND
    residual = (split.x[alone].double() - clean) / galaxy.NOISE
    n = residual.numel()
    assert abs(float(residual.mean())) < 4 / math.sqrt(n)
    assert abs(float(residual.std()) - 1) < 4 / math.sqrt(2 * n)


def galaxy10_file(path: Path, shape: tuple[int, ...] = (69, 69, 3), classes: Any = None, dtype: Any = "uint8") -> Path:
    """A small file of Galaxy10's format: image n has the pixel value n everywhere but in its first row."""
    classes = np.arange(20) % 10 if classes is None else np.asarray(classes)
    n = len(classes)
    images = np.broadcast_to(np.arange(n).reshape(n, *[1] * len(shape)), (n, *shape)).astype(dtype)
    images[:, 0] = 255
    with h5py.File(path, "w") as file:
        file["images"], file["ans"] = images, classes.astype("uint8")
    return path


def test_galaxy10_gives_class_6_alone_channels_first_in_0_to_1(tmp_path: Path) -> None:
    split = galaxy10.read_images(galaxy10_file(tmp_path / "Galaxy10.h5"))
    assert split.x.shape == (2, 3, 69, 69)
    assert split.x.dtype == torch.float32
    assert torch.equal(split.x[:, 0, 5, 7], torch.tensor([6.0, 16.0]) / 255)
    assert bool((split.x[:, :, 0] == 1).all())


def test_galaxy10_is_parted_into_400_100_and_the_rest_by_seed(tmp_path: Path) -> None:
    path = galaxy10_file(tmp_path / "Galaxy10.h5", classes=[6] * 520 + [1] * 5)
    splits, again, other = galaxy10.read(path, 1), galaxy10.read(path, 1), galaxy10.read(path, 2)
    assert [len(split) for _, split in splits.items()] == [400, 100, 20]
    assert torch.equal(splits.train.x, again.train.x)
    assert not torch.equal(splits.train.x, other.train.x)


def test_galaxy10_refuses_other_editions_and_files(tmp_path: Path) -> None:
    def refused(words: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=words):
            galaxy10.read(galaxy10_file(tmp_path / "Galaxy10.h5", **options))

    refused("DECaLS edition .*256 x 256 .* expected the SDSS edition", shape=(256, 256, 3))
    refused(r"images of shape \(20, 32, 32, 3\), expected \(n, 69, 69, 3\)", shape=(32, 32, 3))
    refused("images of float32, expected 8-bit", dtype="float32")
    refused("without an image of class 6", classes=[1, 2])
    refused("classes that are not 0 to 9", classes=[6, 77])
    refused("with 2 images of class 6, expected more than 500")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["posterior"] = np.zeros(3)
    (tmp_path / "text.h5").write_text("not HDF5")
    for name, words in {"other.h5": "posterior", "text.h5": "no readable HDF5", "none.h5": "not there"}.items():
        with pytest.raises(ValueError, match=words):
            galaxy10.read(tmp_path / name)


# -- locomotion -------------------------------------------------------------------------------------------------


def test_synthetic_strides_are_periodic_smooth_and_human() -> None:
    split = locomotion.generate(0).train
    x = split.x.double()
    assert float((x[:, 0] - x[:, -1]).abs().max()) < 1e-6
    # nothing above the eighth harmonic
    spectrum = torch.fft.rfft(x[:, :-1], dim=1, norm="forward").abs()
    assert float(spectrum[:, 9:].max()) < 1e-6
    assert float(spectrum[:, 8].max()) > 1e-4
    degrees = x.rad2deg()
    mean = degrees.mean(0)
    # textbook ranges of level walking: hip 40 deg, knee flexion 60 deg at about 70 %, ankle 25 to 30 deg
    assert 35 < float(mean[:, 0].max() - mean[:, 0].min()) < 50
    assert 50 < float(mean[:, 1].max()) < 70
    assert 65 <= int(mean[:, 1].argmax()) <= 75
    assert 20 < float(mean[:, 2].max() - mean[:, 2].min()) < 35
    assert float(degrees.abs().max()) < 120


def test_synthetic_strides_keep_speed_cadence_and_length_consistent() -> None:
    covariates = locomotion.generate(0).train.covariates
    # two steps make a stride
    speed = covariates["stride_length"] * covariates["cadence"] / 120
    assert torch.allclose(speed, covariates["speed"], rtol=1e-5)
    assert set(covariates["foot"].unique().tolist()) == {0.0, 1.0}


def test_amplitudes_of_the_joints_go_together_and_grow_with_speed() -> None:
    split = locomotion.generate(0, (2000, 1, 1)).train
    hip, speed = split.truths["amplitude"][:, 0].log(), split.covariates["speed"].log()
    # sd of 0.4 * 0.25 from the speed and of 0.1 of its own: correlation 1 / sqrt 2, standard error (1 - r^2) / sqrt n
    found = float(torch.corrcoef(torch.stack([hip, speed]))[0, 1])
    assert abs(found - math.sqrt(0.5)) < 4 * 0.5 / math.sqrt(2000)
    offsets = torch.corrcoef(split.truths["offset"].T)
    assert abs(float(offsets[0, 2]) - 0.5) < 4 * 0.75 / math.sqrt(2000)


def strides(n: int, points: int = 101, seed: int = 0) -> dict[str, np.ndarray]:
    """Measured-like arrays in the layout of the .npz files."""
    split = locomotion.generate(seed, (n, 1, 1)).train
    kept = np.round(np.linspace(0, 100, points)).astype(int)
    return {
        "angles": split.x.mT.numpy()[..., kept],
        **{name: value.numpy() for name, value in split.covariates.items()},
    }


def test_npz_strides_are_read_channels_last_with_their_covariates(tmp_path: Path) -> None:
    arrays = strides(60)
    np.savez(tmp_path / "strides.npz", **arrays)  # type: ignore[arg-type]
    split = gait_files.read_strides(tmp_path / "strides.npz")
    assert split.x.shape == (60, 101, 3)
    assert np.array_equal(split.x.mT.numpy(), arrays["angles"])
    assert list(split.covariates) == list(locomotion.COVARIATES)
    splits = gait_files.read(tmp_path / "strides.npz", 0)
    assert [len(part) for _, part in splits.items()] == [28, 7, 25]


def test_844_strides_are_parted_as_published() -> None:
    split = locomotion.generate(0, (844, 1, 1)).train
    assert [len(part) for part in partition(split, 400, 100, 0)] == [400, 100, 344]


def test_a_folder_with_its_own_splits_keeps_them(tmp_path: Path) -> None:
    for part, n in {"train": 12, "valid": 5}.items():
        np.savez(tmp_path / f"{part}.npz", **strides(n, seed=n))  # type: ignore[arg-type]
    splits = gait_files.read(tmp_path)
    assert (len(splits.train), len(splits.valid), splits.test) == (12, 5, None)
    splits.save(tmp_path / "out.npz")
    assert Splits.load(tmp_path / "out.npz").test is None
    np.savez(tmp_path / "test.npz", **strides(7, seed=7))  # type: ignore[arg-type]
    test = gait_files.read(tmp_path).test
    assert test is not None
    assert np.array_equal(test.x.mT.numpy(), strides(7, seed=7)["angles"])


def subject(path: Path, tasks: list[str], points: int = 101, **broken: Any) -> dict[str, np.ndarray]:
    """A SubjectN.mat of the collection's layout; returns what went into it."""
    arrays = strides(len(tasks), points, seed=int(path.stem[-1]))
    entries = []
    for j, task in enumerate(tasks):
        ang = np.full((12, points), 999.0)  # pelvis, trunk and other planes
        ang[[3, 6, 9]] = np.rad2deg(arrays["angles"][j])
        entry: dict[str, Any] = {"Task": task, "Ang": ang, "Foot": "LX" if arrays["foot"][j] else "RX"}
        entry |= {"speed": arrays["speed"][j], "strideLength": arrays["stride_length"][j]}
        entry |= {"stepWidth": arrays["step_width"][j], "cadence": arrays["cadence"][j]}
        entries.append({name: value for name, value in {**entry, **broken}.items() if value is not None})
    fields = list(entries[0])
    data = np.array([tuple(e[f] for f in fields) for e in entries], dtype=[(f, object) for f in fields])
    savemat(path, {"s": {"name": path.stem, "Data": data}})
    return arrays


def test_mat_strides_are_those_of_level_walking_in_rad(tmp_path: Path) -> None:
    tasks = ["Walking", "HeelWalking", "Walking", "StepUp"]
    arrays = subject(tmp_path / "Subject7.mat", tasks)
    split = gait_files.read_subject(tmp_path / "Subject7.mat")
    assert split.x.shape == (2, 101, 3)
    assert np.allclose(split.x.mT.numpy(), arrays["angles"][[0, 2]], rtol=0, atol=1e-6)
    for name in locomotion.COVARIATES:
        assert np.allclose(split.covariates[name].numpy(), arrays[name][[0, 2]], rtol=1e-6)
    assert split.covariates["subject"].tolist() == [7.0, 7.0]


def test_a_single_stride_and_another_number_of_points_are_read(tmp_path: Path) -> None:
    arrays, full = subject(tmp_path / "Subject1.mat", ["Walking"], points=51), strides(1, seed=1)
    split = gait_files.read_subject(tmp_path / "Subject1.mat")
    assert arrays["angles"].shape == (1, 3, 51)
    # cubic splines through every second point: eight harmonics, spacing 0.02 of a stride
    assert np.abs(split.x.mT.numpy() - full["angles"]).max() < 2e-3


def test_subjects_in_a_folder_are_read_in_order_and_can_be_held_out(tmp_path: Path) -> None:
    for number in (9, 1, 3, 2, 8):
        subject(tmp_path / f"Subject{number}.mat", ["Walking"] * 6)
    splits = gait_files.read(tmp_path, 0, held_out="subject")
    people = {name: set(split.covariates["subject"].tolist()) for name, split in splits.items()}
    assert people["test"] == {1.0, 9.0}
    assert people["train"] | people["valid"] == {2.0, 3.0, 8.0}


def test_hold_out_keeps_the_bands_of_a_covariate_out_of_training() -> None:
    split = locomotion.generate(0, (400, 1, 1)).train
    train, valid, test = hold_out(split, "speed", 0)
    low, high = split.covariates["speed"].quantile(0.15), split.covariates["speed"].quantile(0.85)
    for part in (train, valid):
        assert bool(((part.covariates["speed"] > low) & (part.covariates["speed"] < high)).all())
    assert bool(((test.covariates["speed"] <= low) | (test.covariates["speed"] >= high)).all())
    assert (len(train), len(valid), len(test)) == (224, 56, 120)
    middle = hold_out(split, "cadence", 0, bands=[(0.4, 0.6)])[2]
    assert len(middle) == pytest.approx(80, abs=2)
    for options, words in (
        ({"covariate": "age"}, "covariate: got 'age', expected one of .* speed"),
        ({"bands": [(0.6, 0.4)]}, "bands: got"),
        ({"bands": [(0.0, 1.0)]}, "leave 0 for training"),
        ({"valid": 1.5}, "valid: got 1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            hold_out(split, **{"covariate": "speed", "seed": 0, **options})  # type: ignore[arg-type]


def test_files_that_are_no_strides_are_refused(tmp_path: Path) -> None:
    good = strides(4)
    cases = {
        "degrees": ({**good, "angles": np.rad2deg(good["angles"])}, "are these degrees"),
        "layout": ({**good, "angles": good["angles"].swapaxes(1, 2)}, r"expected floats \(n, 3, T\)"),
        "missing": ({"speed": good["speed"]}, "expected angles"),
        "nan": ({**good, "angles": good["angles"] * np.nan}, "not finite"),
        "short": ({**good, "speed": good["speed"][:2]}, "covariates\\['speed'\\]"),
        "objects": ({"angles": np.array([{}, 1], dtype=object)}, "unpickling"),
        "few": (good, "cannot be parted"),
    }
    for name, (arrays, words) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=words) as refused:
            gait_files.read(tmp_path / f"{name}.npz")
        assert str(refused.value).startswith("source: got ")
    broken: dict[str, dict[str, Any]] = {
        "Subject1.mat": {"Task": "Running"},
        "Subject2.mat": {"Ang": np.zeros((4, 101))},
        "Subject3.mat": {"cadence": None},
        "Subject4.mat": {"speed": "fast"},
    }
    wanted = {"Subject1.mat": "Walking", "Subject2.mat": "Ang", "Subject3.mat": "cadence", "Subject4.mat": r"Data\(1\)"}
    for name, change in broken.items():
        subject(tmp_path / name, ["Walking"] * 3, **change)
        with pytest.raises(ValueError, match=wanted[name]):
            gait_files.read(tmp_path / name)
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    (tmp_path / "text.mat").write_text("no MATLAB file at all")
    (tmp_path / "empty").mkdir()
    for name, words in {"other.mat": "s.Data", "text.mat": "cannot be read", "empty": "without strides"}.items():
        with pytest.raises(ValueError, match=words):
            gait_files.read(tmp_path / name)


# -- the published generators' files ----------------------------------------------------------------------------


def test_files_of_the_published_generators_are_read(tmp_path: Path) -> None:
    swing, heat = small("pendulum"), small("advection_diffusion")
    for part, split in swing.items():
        np.savetxt(tmp_path / f"data_{part}.txt", split.x[..., 0].numpy(), fmt="%.9e")
        rows = np.stack([split.truths[name].numpy() for name in ("theta0", "omega", "gamma", "A", "f")], 1)
        np.savetxt(tmp_path / f"true_params_{part}.txt", rows, fmt="%.9e", header="init omega gamma A f")
    found = published.read_pendulum(tmp_path)
    assert torch.equal(found.valid.x, swing.valid.x)
    assert all(torch.equal(found.train.truths[name], value) for name, value in swing.train.truths.items())
    for part, split in heat.items():
        np.save(tmp_path / f"data_{part}.npy", split.x.double().mT.numpy())
        rows = np.stack([split.truths[name].numpy() for name in ("c", "a", "b")], 1)
        np.savetxt(tmp_path / f"true_params_{part}.txt", rows, fmt="%.9e")
    read = published.read_advection_diffusion(tmp_path)
    assert torch.equal(read.train.x, heat.train.x)
    assert all(torch.equal(read.valid.truths[name], value) for name, value in heat.valid.truths.items())
    with pytest.raises(ValueError, match=r"true_params_train.txt' of shape \(20, 3\), expected \(N, 5\)"):
        published.read_pendulum(tmp_path)
    (tmp_path / "data_test.npy").write_bytes(b"not numbers")
    with pytest.raises(ValueError, match=r"data_test\.npy', which cannot be read"):
        published.read_advection_diffusion(tmp_path)
    with pytest.raises(ValueError, match=r"without data_train\.txt"):
        published.read_pendulum(tmp_path / "nowhere")


# -- splits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(4, 5)}, ValueError, r"x: got shape \(4, 5\)"),
        ({"x": torch.zeros(0, 5, 1)}, ValueError, "none empty"),
        ({"x": torch.full((4, 5, 1), math.nan)}, ValueError, "x: got an entry that is not finite"),
        ({"x": torch.zeros(4, 5, 1, dtype=torch.int64)}, TypeError, "x: got torch.int64"),
        ({"x": np.zeros((4, 5, 1))}, TypeError, "x: got ndarray"),
        ({"times": torch.zeros(4)}, ValueError, r"times: got shape \(4,\), expected \(5,\)"),
        ({"times": torch.zeros(5)}, ValueError, "times: got numbers that do not increase"),
        (
            {"truths": {"omega": torch.zeros(3)}},
            ValueError,
            r"truths\['omega'\]: got shape \(3,\), expected \(4, ...\)",
        ),
        ({"covariates": {"speed": torch.zeros(4, 2)}}, ValueError, r"covariates\['speed'\]"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    entries = {"x": torch.zeros(4, 5, 1), "times": torch.arange(5.0), **change}
    with pytest.raises(error, match=words):
        Split(**entries)


def test_splits_of_different_shapes_are_refused() -> None:
    splits = small("pendulum")
    with pytest.raises(ValueError, match="valid: got"):
        replace(splits, valid=small("advection_diffusion").valid)


def test_foreign_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    splits = small("pendulum")
    splits.save(tmp_path / "data.npz")
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-300])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", about=np.array([{}], dtype=object))
    for name in ("cut.npz", "text.npz", "foreign.npz", "objects.npz", "none.npz"):
        with pytest.raises(ValueError, match=f"path: got .*{name}.*, expected a file written by physzoo data"):
            Splits.load(tmp_path / name)
    with pytest.raises(ValueError, match="the data of pendulum, expected those of galaxy"):
        Splits.load(tmp_path / "data.npz", "galaxy")
    with pytest.raises(ValueError, match="name: got 'unicorn', expected one of pendulum"):
        system("unicorn")
    with pytest.raises(ValueError, match="seed: got -1"):
        pendulum.generate(-1)
