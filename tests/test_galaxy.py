"""Disks of galaxies: symmetry of the image, an angle without a seam, networks that keep to one image, the contract."""

import math

import pytest
import torch

from physzoo.guides.amortize import amortize
from physzoo.guides.cleansing import cleansing_guide
from physzoo.guides.sites import simulate
from physzoo.models.contract import check_model
from physzoo.models.datasets import galaxy as data
from physzoo.models.galaxy import PERIOD, Galaxy, Ring, angle, direction, eightfold
from physzoo.models.image_networks import ImageCleansing, ImageEncoder, UNet


def disk_of(turn: float) -> dict[str, torch.Tensor]:
    known = {name: torch.tensor(value) for name, value in (("I0", 0.8), ("A", 0.25), ("e", 0.6))}
    return {**known, "direction": direction(torch.tensor(turn))}


def small(**options) -> Galaxy:
    torch.manual_seed(0)
    return Galaxy(**{"size": 9, "code": 2, "features": 2, **options})


def test_the_disk_is_the_same_after_half_a_turn_and_another_one_after_a_quarter() -> None:
    model = Galaxy()
    image, half, quarter = (model.physics(disk_of(0.4 + turn)) for turn in (0.0, math.pi, 0.5 * math.pi))
    assert torch.allclose(image, half, atol=1e-5)
    assert torch.allclose(image.rot90(2, (-2, -1)), image, atol=1e-6)
    assert torch.allclose(image.rot90(1, (-2, -1)), quarter, atol=1e-5)
    assert float((image - quarter).abs().max()) > 0.2


def test_the_total_flux_of_the_disk_is_two_pi_squared_scale_length_times_axis_ratio() -> None:
    z = {**disk_of(0.3), "A": torch.tensor(0.08), "e": torch.tensor(0.3)}
    flux = float(Galaxy(size=401, colour=(1.0,)).physics(z).sum()) * (2 / 401) ** 2
    assert flux == pytest.approx(2 * math.pi * 0.08**2 * 0.7 * 0.8, rel=2e-3)


def test_direction_and_angle_are_inverse_and_neighbours_across_the_seam_are_close() -> None:
    turns = torch.linspace(0.0, PERIOD, 50)[:-1]
    assert torch.allclose(angle(direction(turns)), turns, atol=1e-5)
    gap = direction(torch.tensor(0.001)) - direction(torch.tensor(PERIOD - 0.001))
    assert float(gap.norm()) < 0.005


def test_the_ring_is_a_density_with_uniform_directions_and_draws_of_it() -> None:
    ring = Ring(torch.tensor(0.1, dtype=torch.float64))
    along = torch.linspace(-2, 2, 801, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1)
    assert float(ring.log_prob(plane).exp().sum()) * 0.005**2 == pytest.approx(1.0, abs=1e-4)
    torch.manual_seed(0)
    draws = ring.sample(torch.Size([4000]))
    length = draws.norm(dim=-1)
    error = 4000**-0.5
    assert abs(float(length.mean()) - 1.0) < 4 * 0.1 * error
    assert abs(float(length.std()) - 0.1) < 4 * 0.1 * error
    resultant = direction(angle(draws)).mean(0).norm()
    assert float(resultant) < 4 * error


def test_coverage_on_the_circle_does_not_see_the_seam() -> None:
    """A posterior of known width around a truth at the seam covers as often as one in the middle of the range."""
    from physzoo.inference.reconstruction import evaluate

    torch.manual_seed(0)
    sets, sd = 400, 0.1
    truth = torch.where(torch.arange(sets) % 2 == 0, 0.0, 1.2)

    class Wide:
        def sample(self, given, draws):
            near = given["x"][:, 0, 0, 0] + sd * torch.randn(draws, len(given["x"]))
            return {"angle": angle(direction(near))}

    class Picture:
        def decode(self, z, times=None):
            from physzoo.physics.grey_box import Decoded

            image = z["angle"][..., None, None, None]
            return Decoded(image, image, image, image)

    seen = (truth + sd * torch.randn(sets))[:, None, None, None]
    found = evaluate(Picture(), Wide(), {"x": seen}, truths={"angle": truth}, periods={"angle": PERIOD}, bound=0)
    assert found.errors["angle"] == pytest.approx(sd * math.sqrt(2 / math.pi), rel=0.15)
    for level, share in found.coverage["angle"].items():
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / sets))


def test_the_learnt_part_starts_at_nothing_and_can_place_things_by_its_code() -> None:
    torch.manual_seed(0)
    net = UNet(1, 1, 2, (9, 11), 2)
    image, codes = torch.randn(2, 1, 9, 11), torch.randn(2, 2)
    assert float(net(image, codes).abs().max()) == 0.0
    with torch.no_grad():
        net.last.weight.fill_(1.0)
    blank = torch.zeros(2, 1, 9, 11)
    painted = net(blank, codes)
    assert painted.shape == image.shape
    assert float((painted[0] - painted[1]).std()) > 1e-4


def test_networks_never_mix_images_and_ignore_what_is_masked() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    mask = torch.rand(4, 3, 8, 8) > 0.3
    encoder = ImageEncoder({"x": x[0], "mask": mask[0]}, features=(4, 4))
    encoder.standardise({"x": x})
    together = encoder(x=x, mask=mask)
    assert torch.allclose(together[2], encoder(x=x[2], mask=mask[2]), atol=1e-6)
    spoiled = torch.where(mask, x, torch.nan)
    assert torch.equal(encoder(x=spoiled, mask=mask), together)
    cleanse = ImageCleansing(x[0], 2, 2)
    cleanse.standardise(spoiled)
    torch.nn.init.normal_(cleanse.net.last.weight)
    codes = torch.randn(5, 4, 2)
    cleansed = cleanse(spoiled, codes, mask)
    assert cleansed.shape == (5, 4, 3, 8, 8)
    assert torch.allclose(cleansed[3, 1], cleanse(spoiled[1], codes[3, 1], mask[1]), atol=1e-6)
    with pytest.raises(ValueError, match="channels, H, W"):
        ImageEncoder({"x": torch.zeros(4, 5)})


def test_the_eight_positions_are_different_images_of_turned_and_mirrored_disks() -> None:
    model = Galaxy()
    images = eightfold(model.physics(disk_of(0.4)).unsqueeze(0))
    assert images.shape == (8, 3, 32, 32)
    distinct = {tuple((image * 1e3).round().flatten().tolist()) for image in images}
    assert len(distinct) == 4  # half a turn is none
    assert torch.allclose(images[1], model.physics(disk_of(-0.4))[:], atol=1e-5)
    with pytest.raises(ValueError, match="square"):
        eightfold(torch.zeros(2, 3, 4, 5))


def test_a_guide_of_the_physics_learns_the_angle_from_simulations_alone() -> None:
    """An encoder that had to cross a seam would be off by up to pi / 4 for the angles next to it."""
    model = Galaxy(size=12, colour=(1.0,), code=0)
    guide = amortize(model.physics_alone, ImageEncoder, "full", example={"x": torch.zeros(1, 12, 12)}, seed=0)
    optimizer = torch.optim.Adam(guide.parameters(), 3e-3)
    torch.manual_seed(0)
    for _ in range(250):
        drawn = simulate(model.physics_alone, 128, nesting=0)
        loss = -guide.log_prob(drawn, {"x": drawn["x"]}).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    truths = data.generate(1, (2, 2, 200), 12).test.truths
    z = {name: truths[name] for name in ("I0", "A", "e")} | {"direction": direction(truths["angle"])}
    found = angle(guide.sample({"x": model.physics(z)}, 50)["direction"])
    gap = direction(found).mean(0) - direction(truths["angle"])
    near = (truths["angle"] < 0.2) | (truths["angle"] > PERIOD - 0.2)
    assert int(near.sum()) > 10
    assert float(gap[near].norm(dim=-1).mean()) < 0.3
    assert float(gap.norm(dim=-1).mean()) < 0.3


@pytest.mark.parametrize("options", [{}, {"code": 0}])
def test_it_keeps_the_contract_of_the_zoo(options) -> None:
    model = small(**options).double()
    x = data.generate(0, (2, 2, 2), 9).train.x[0].double()
    check_model(model, {"x": x})
    guide = cleansing_guide(
        model, {"x": x}, encoder=ImageEncoder, physics_encoder=ImageEncoder, cleanse=ImageCleansing, family="diagonal"
    )
    check_model(model, {"x": x}, guide)
