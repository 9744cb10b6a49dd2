"""Disks of galaxies: symmetry of the image, an angle without a seam, networks that keep to one image, the contract."""

import math

import pytest
import torch

from physzoo.core.simulate import simulate
from physzoo.guides.amortize import amortize
from physzoo.guides.cleansing import cleansing_guide
from physzoo.models.contract import check_model
from physzoo.models.datasets import galaxy as data
from physzoo.models.datasets.splits import Split
from physzoo.models.galaxy import TRAINING, Degeneracy, Galaxy, angle, direction
from physzoo.models.galaxy_data import DATA, PERIOD, eightfold, training_splits, turned_split
from physzoo.models.image_networks import ImageCleansing, ImageEncoder, MapEncoder, MapMixture, UNet
from physzoo.models.image_priors import CellMixture, CellPrior, Ring


def disk_of(turn: float, colour: tuple[float, ...] = data.MEAN_COLOUR) -> dict[str, torch.Tensor]:
    known = {name: torch.tensor(value) for name, value in (("I0", 0.8), ("A", 0.25), ("e", 0.6))}
    middle = {"colour": torch.tensor(colour), "centre": torch.zeros(2)}
    return {**known, **middle, "direction": direction(torch.tensor(turn))}


def z_of(truths) -> dict[str, torch.Tensor]:
    """The unknowns of the model from the truths of the generator."""
    same = {name: truths[name] for name in ("I0", "A", "e", "colour", "centre")}
    return {**same, "direction": direction(truths["angle"])}


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
    z = {**disk_of(0.3, (1.0,)), "A": torch.tensor(0.08), "e": torch.tensor(0.3)}
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
    from physzoo.inference.evaluation import evaluate

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


def test_the_physics_of_the_model_is_that_of_the_generator_with_colour_and_centre() -> None:
    truths = data.generate(2, (60, 1, 1), 32).train
    alone = truths.truths["neighbours"] == 0
    assert int(alone.sum()) > 8
    left = (truths.x - Galaxy().physics(z_of(truths.truths)))[alone] - data.BACKGROUND
    assert float(left.std()) == pytest.approx(data.NOISE, rel=5 / (2 * left.numel()) ** 0.5)
    assert abs(float(left.mean())) < 5 * data.NOISE / left.numel() ** 0.5


def test_the_priors_of_colour_and_centre_are_those_of_the_generator() -> None:
    priors = Galaxy().priors()
    truths = data.generate(3, (2000, 1, 1), 4).train.truths
    scores = torch.cat(
        [(truths["colour"] / torch.tensor(data.MEAN_COLOUR)).log() / 0.1, truths["centre"] / 0.03], -1
    ).flatten()
    assert abs(float(scores.mean())) < 4 / len(scores) ** 0.5
    assert float(scores.var()) == pytest.approx(1.0, abs=4 * (2 / len(scores)) ** 0.5)
    median = torch.tensor(data.MEAN_COLOUR)
    ratio = priors["colour"].log_prob(1.1 * median) - priors["colour"].log_prob(median)
    assert float(ratio) == pytest.approx(-3 * math.log(1.1) - 1.5 * (math.log(1.1) / 0.1) ** 2, abs=1e-4)
    off = priors["centre"].log_prob(torch.tensor([0.06, 0.0])) - priors["centre"].log_prob(torch.zeros(2))
    assert float(off) == pytest.approx(-2.0, abs=1e-5)


def test_the_guide_starts_from_the_brightness_of_each_channel_not_from_colour_and_intensity() -> None:
    """At the start every draw of I0 has the colours that leave their product at the middle of the prior."""
    torch.manual_seed(0)
    w = torch.randn(500, 10, dtype=torch.float64)
    w[:, 5:8] = 0.0
    moved = Degeneracy()(w)
    intensity = 0.5 + 0.5 * torch.sigmoid(math.pi / math.sqrt(3) * moved[:, 0])
    brightness = intensity[:, None] * (0.1 * moved[:, 5:8]).exp()
    assert torch.allclose(brightness, torch.full_like(brightness, 0.75))
    assert torch.allclose(Degeneracy().inv(moved), w, atol=1e-12)
    assert torch.equal(moved[:, [0, 1, 2, 3, 4, 8, 9]], w[:, [0, 1, 2, 3, 4, 8, 9]])
    jacobian = torch.autograd.functional.jacobian(Degeneracy()._call, w[0])
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(0.0, abs=1e-9)


def mixture(cells: int) -> CellMixture:
    """Three cells in four around 0, one in four around (2, -1)."""
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
    loc = torch.tensor([[0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0, 0.5], [0.3, 0.2]], dtype=torch.float64)
    return CellMixture(weights.log()[None], loc[None], scale[None], cells)


def test_the_prior_of_a_cell_is_a_density_and_a_map_is_its_cells_channels_first() -> None:
    along = torch.linspace(-6, 6, 601, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1)
    assert float(mixture(1).log_prob(plane).exp().sum()) * 0.02**2 == pytest.approx(1.0, abs=1e-4)
    code = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    single = sum(mixture(1).log_prob(code[:, :, cell]) for cell in range(3))
    assert torch.allclose(mixture(3).log_prob(code.flatten(1)), torch.as_tensor(single))


def test_maps_are_drawn_from_that_density_with_cells_that_differ() -> None:
    torch.manual_seed(0)
    cells = 50
    codes = mixture(cells).expand(torch.Size([100])).sample(torch.Size([2])).reshape(200, 2, cells)
    far = (codes[:, 0] - 2.0).abs() + (codes[:, 1] + 1.0).abs() < 1.0
    centre = codes.mean((0, 2))
    number = 200 * cells
    for found, mean, sd in zip(centre, (0.5, -0.25), (1.23, 0.62), strict=True):
        assert float(found) == pytest.approx(mean, abs=4 * sd / number**0.5)
    own = torch.randn(200000, 2, dtype=torch.float64) * torch.tensor([1.0, 0.5])
    near = float(((own[:, 0] - 2.0).abs() + (own[:, 1] + 1.0).abs() < 1.0).double().mean())
    inside = torch.randn(200000, 2, dtype=torch.float64) * torch.tensor([0.3, 0.2])
    share = 0.75 * near + 0.25 * float((inside.abs().sum(-1) < 1.0).double().mean())
    assert float(far.double().mean()) == pytest.approx(share, abs=4 * (share / number) ** 0.5)
    assert float(far.double().mean(-1).std()) == pytest.approx((share * (1 - share) / cells) ** 0.5, rel=0.25)


def test_the_prior_of_the_codes_finds_how_often_a_cell_shows_something() -> None:
    """One part of the mixture goes to the rare cells; what Normal(0, I) would draw there is forgotten."""
    torch.manual_seed(0)
    rare = torch.rand(500, 1, 16) < 0.1
    codes = torch.where(rare, 3.0 + 0.3 * torch.randn(500, 2, 16), 0.5 * torch.randn(500, 2, 16)).flatten(1)
    prior = CellPrior(2, 16)
    assert prior().event_shape == (32,)
    optimizer = torch.optim.Adam(prior.parameters(), 3e-2)
    for _ in range(400):
        loss = -prior().log_prob(codes).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = prior().sample(torch.Size([500])).unflatten(-1, (2, 16))
    assert float((drawn.mean(1) > 1.75).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(codes.std()) == pytest.approx(float(drawn.std()), rel=0.05)
    with pytest.raises(ValueError, match="parts"):
        CellPrior(2, 16, 0)


def test_the_codes_have_a_learnt_prior_unless_told_otherwise() -> None:
    assert isinstance(small().code_priors["z_A"], CellPrior)
    assert not small(parts=0).code_priors
    assert not small(code=0).code_priors


def test_the_learnt_part_starts_at_nothing_and_places_things_by_its_code() -> None:
    torch.manual_seed(0)
    net = UNet(1, 1, 2, (17, 30), 2)
    blank, codes = torch.ones(1, 1, 17, 30), torch.zeros(2, 2, 5, 8)
    codes[1, :, 1, 1] = 3.0
    painted = net(blank, codes.flatten(1))
    assert painted.shape == (2, 1, 17, 30)
    assert not bool(painted.any())
    with torch.no_grad():
        net.last.weight.fill_(1.0)
    change = net(blank, codes.flatten(1)).detach().diff(dim=0).abs().squeeze()
    assert float(change[:8, :8].max()) > 1e-4
    assert float(change[:, 22:].max()) == 0.0


def test_codes_are_local() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 32, 32)
    encoder = MapEncoder({"x": x})
    family = MapMixture(2 * 64, encoder.width)
    spoiled = x.clone()
    spoiled[:, :2, :2] += 5.0
    first, second = (family(encoder(x=image)).parts[1][:, 0] for image in (x, spoiled))
    change = (first - second).abs().T.reshape(2, 8, 8)
    assert float(change[:, 0, 0].max()) > 1e-4
    assert float(change[:, 6:, 6:].max()) == 0.0


def test_the_weights_of_a_mixture_learn_from_given_values_alone_and_its_parts_from_own_draws_too() -> None:
    torch.manual_seed(0)
    family = MapMixture(2 * 4, 16 * 4).double()
    density = family(torch.randn(5, 16 * 4, dtype=torch.float64))
    assert density.batch_shape == (5,)
    logits, loc, _ = density.parts
    drawn = density.rsample()
    own, again = density.log_prob(drawn), density.log_prob(drawn.clone())
    assert torch.allclose(own, again)
    gradients = torch.autograd.grad(own.sum(), (logits, loc), retain_graph=True, allow_unused=True)
    assert gradients[0] is None
    assert bool(torch.as_tensor(gradients[1]).any())
    (gradient,) = torch.autograd.grad(again.sum(), logits)
    assert bool(gradient.any())
    assert density.rsample(torch.Size([3])).shape == (3, 5, 8)


def test_own_draws_move_a_mixture_to_its_target() -> None:
    """The ELBO's gradient with fixed weights: two parts of one cell go where a normal target is."""
    torch.manual_seed(0)
    loc = torch.tensor([[[3.0, 0.0], [-1.0, 2.0]]], requires_grad=True)
    log_scale = torch.zeros(1, 2, 2, requires_grad=True)
    weights = torch.tensor([[0.0, -1.0]])
    optimizer = torch.optim.Adam([loc, log_scale], 2e-2)
    target = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
    for _ in range(800):
        density = CellMixture(weights, loc, log_scale.exp(), 1).expand(torch.Size([64]))
        drawn = density.rsample()
        loss = (density.log_prob(drawn) - target.log_prob(drawn).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = CellMixture(weights, loc, log_scale.exp(), 1).expand(torch.Size([20000])).rsample()
    assert torch.allclose(drawn.mean(0), target.mean, atol=0.15)
    assert torch.allclose(drawn.std(0), target.stddev, rtol=0.1)


def test_turned_galaxies_keep_their_truths() -> None:
    split = data.generate(4, (3, 1, 1), 16).train
    model = Galaxy(size=16)
    clean = model.physics(z_of(split.truths))
    turned = turned_split(Split(clean, None, split.truths))
    assert len(turned) == 24
    assert torch.allclose(turned.x, model.physics(z_of(turned.truths)), atol=1e-5)
    assert bool(((turned.truths["angle"] >= 0) & (turned.truths["angle"] < PERIOD)).all())
    assert torch.equal(turned.truths["I0"], split.truths["I0"].repeat(8))


def test_the_training_data_are_the_images_in_eight_positions() -> None:
    splits = training_splits(3)
    own = DATA.splits(3)
    assert [len(split) for split in (splits.train, splits.valid, splits.test)] == [16000, 200, 500]
    assert torch.equal(splits.train.x[:2000], own.train.x)
    assert torch.equal(splits.test.x, own.test.x)


def test_model_and_guide_are_small_enough_to_come_with_the_package() -> None:
    model = Galaxy()
    guide = cleansing_guide(model, DATA.one(), simulations=4, **TRAINING["guide"])
    numbers = sum(value.numel() for part in (model, guide) for value in part.state_dict().values())
    assert 4 * numbers < 2e6


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
    cleanse = ImageCleansing(x[0], 8, 2)
    cleanse.standardise(spoiled)
    torch.nn.init.normal_(cleanse.net.last.weight)
    codes = torch.randn(5, 4, 8)
    cleansed = cleanse(spoiled, codes, mask)
    assert cleansed.shape == (5, 4, 3, 8, 8)
    assert torch.allclose(cleansed[3, 1], cleanse(spoiled[1], codes[3, 1], mask[1]), atol=1e-6)
    with pytest.raises(ValueError, match="channels, H, W"):
        ImageEncoder({"x": torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="a multiple of 4"):
        ImageCleansing(x[0], 7)


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
    z = {**z_of(truths), "colour": truths["colour"][:, 2:]}
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
    guide = cleansing_guide(model, {"x": x}, **TRAINING["guide"])
    check_model(model, {"x": x}, guide)
