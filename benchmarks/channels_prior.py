"""Train the learnt prior of channel maps and store its decoder in models/data, with what it reaches on test maps.

    python benchmarks/channels_prior.py [--seed 0] [--quick]

ELBO on 10,000 generated maps, a diagonal Gaussian encoder beside the decoder; the state that is best on 1,000 validation
maps is kept. The metrics are of 1,000 test maps: the ELBO, how far mean maps of an encoded w are from their maps, and
the heads that maps of either origin give, w ~ Normal(0, I) decoded against the generator.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _store import PACKAGES
from safetensors.torch import save
from torch import Tensor

from physzoo.core.files import replacing
from physzoo.guides import amortize
from physzoo.guides.encoders import MLP
from physzoo.inference.density.densities import draw
from physzoo.inference.fit import DataSets, FitOptions, fit
from physzoo.models.channel_darcy import CONTRAST, SENSORS, aquifer
from physzoo.models.channels_prior import LATENTS, WEIGHTS, ChannelVAE, GenerativeField
from physzoo.models.datasets.channels import generate

TARGET = Path(__file__).parents[1] / "models" / WEIGHTS
STEPS, BATCH, RATE, EVERY = 10_000, 64, 2e-3, 250


def maps(seed: int) -> dict[str, Tensor]:
    """Return the flat maps of each split, (N, 256)."""
    return {name: split.x.flatten(1) for name, split in generate(seed).items()}


def trained(x: dict[str, Tensor], seed: int, steps: int = STEPS) -> tuple[ChannelVAE, Any, int]:
    """Return model, guide and the step whose state they have."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, example = ChannelVAE(), {"x": x["train"][0]}
        encoder = MLP(example, hidden=(256, 256))
    guide = amortize(model, encoder, "diagonal", example=example, seed=seed)
    data, held_out = DataSets({"x": x["train"]}, BATCH), DataSets({"x": x["valid"]})
    options = FitOptions(learning_rate=RATE, seed=seed, progress=False)
    found = fit(model, guide, data, options=options, steps=steps, held_out=held_out, evaluate_every=EVERY)
    return model, guide, min(found.held_out, key=lambda pair: pair[1])[0]


@torch.no_grad()
def metrics(model: ChannelVAE, guide: Any, x: Tensor, seed: int) -> dict[str, float]:
    drawn = draw(model, guide, {"x": x}, 20, datasets=True, seed=seed)
    field = GenerativeField(model.decoder, CONTRAST)
    encoded = guide.sample({"x": x}, 200)["w"].mean(0)
    again = field(encoded) / CONTRAST
    problem = aquifer()
    w = torch.randn(len(x), LATENTS, generator=torch.Generator().manual_seed(seed))
    heads = [problem.observe(problem.solve(z.double())) for z in (CONTRAST * x, field(encoded), field(w))]
    true, near, drawn_heads = heads
    share = field(w).div(CONTRAST)
    return {
        "elbo_nats": float((drawn.log_p - drawn.log_q).mean()),
        "mean_absolute_error_of_a_cell": float((again - x).abs().mean()),
        "cells_on_the_wrong_side": float(((again > 0.5) != (x > 0.5)).double().mean()),
        "rms_head_error_of_encoded_maps": float((near - true).square().mean().sqrt()),
        "active_latents": int((encoded.std(0) > 0.1).sum()),
        "channel_share_generator": float(x.mean()),
        "channel_share_prior": float(share.mean()),
        "grey_cells_generator": float(((x > 0.1) & (x < 0.9)).double().mean()),
        "grey_cells_prior": float(((share > 0.1) & (share < 0.9)).double().mean()),
        "mean_head_generator": float(true.mean()),
        "mean_head_prior": float(drawn_heads.mean()),
        "sd_head_generator": float(true.std(0).mean()),
        "sd_head_prior": float(drawn_heads.std(0).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps, nothing stored")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, x = time.process_time(), maps(given.seed)
    steps = STEPS // 50 if given.quick else STEPS
    model, guide, best = trained(x, given.seed, steps)
    facts = {
        "command": f"python benchmarks/channels_prior.py --seed {given.seed}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": given.seed,
        "steps": steps,
        "best_step": best,
        "cpu_seconds": time.process_time() - started,
        "contrast": CONTRAST,
        "sensors": SENSORS**2,
        "versions": {key: version(package) for key, package in PACKAGES.items()},
        "metrics": metrics(model, guide, x["test"], given.seed),
    }
    text = json.dumps(facts, indent=2) + "\n"
    print(text, flush=True)
    if not given.quick:
        tensors = {name: value.detach().contiguous() for name, value in model.decoder.state_dict().items()}
        with replacing(TARGET) as beside:
            beside.write_bytes(save(tensors))
        with replacing(TARGET.with_suffix(".json")) as beside:
            beside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
