"""kill -9 at twenty random moments of a fit, resume after each, and compare with the uninterrupted fit to the bit.

    python benchmarks/kill_resume.py [--kills 20]

Every kill hits a process of its own at a random moment (seeded) counted from the first step that this process takes, so
that kills fall inside the fit and not into its start-up; the checkpoint must be readable after each. A further run is
killed while its checkpoint is being written.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _store import store

from physzoo.guides import amortize
from physzoo.inference.checkpoint import load
from physzoo.inference.data import Simulator
from physzoo.inference.fit import FitOptions, fit
from physzoo.inference.objectives import ELBO, Batch, ForwardKL, Mixture, Objective
from physzoo.models.poisson1d import Poisson1D

STEPS, EVERY = 1200, 10


class Announced:
    """An objective that says "go" when it is first asked for."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.silent = objective, True

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> torch.Tensor:
        if self.silent:
            print("go", flush=True)
            self.silent = False
        return self.objective(model, guide, batch)


def train(checkpoint: str | None) -> dict[str, torch.Tensor]:
    """Fit a small amortised flow; return its parameters."""
    torch.set_num_threads(1)
    model = Poisson1D(modes=2).float()
    guide = amortize(model, "mlp", "spline", example={"y": torch.zeros(8)}, transforms=2)
    objective = Mixture(((0.9, ForwardKL()), (0.1, ELBO(1))))
    options = FitOptions(
        steps=STEPS, progress=False, checkpoint=checkpoint, checkpoint_every=EVERY, resume=checkpoint is not None
    )
    fit(model, guide, Simulator(32), objective if checkpoint is None else Announced(objective), options, max_skipped=10)
    return guide.state_dict()


def child(checkpoint: str, final: str, slow: bool) -> None:
    """What a killed process runs; ``slow`` stretches every checkpoint's flush, so that a kill can fall into it."""
    if slow:
        flush = os.fsync

        def stretched(descriptor: int) -> None:
            print("writing", flush=True)
            time.sleep(0.5)
            flush(descriptor)

        os.fsync = stretched
    state = train(checkpoint)
    torch.save(state, final)


def killed(checkpoint: Path, final: Path, wait: float, slow: bool = False) -> bool:
    """Start a child, kill it after ``wait`` seconds; say whether it had finished before."""
    command = [sys.executable, __file__, "--child", str(checkpoint), str(final), *(["--slow"] if slow else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout
        if lines is None:
            raise RuntimeError("no pipe to the child")
        while lines.readline().strip() != ("writing" if slow else "go"):
            if process.poll() is not None:
                return True
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    return final.exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--slow", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        checkpoint, final = arguments.child
        child(checkpoint, final, arguments.slow)
        return
    whole = train(None)
    generator = torch.Generator().manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, final = Path(folder, "fit.pt"), Path(folder, "final.pt")
        for kill in range(arguments.kills):
            wait = 2.0 * torch.rand((), generator=generator).item()
            done = killed(checkpoint, final, wait)
            if done:  # the fit was over before the kill: start another one
                final.unlink()
                checkpoint.unlink()
            step = load(checkpoint)["step"] if checkpoint.exists() else 0
            rows.append({"kill": kill, "seconds_after_first_step": wait, "readable_checkpoint_at_step": step})
        before = load(checkpoint)["step"] if checkpoint.exists() else 0
        killed(checkpoint, final, 0.2, slow=True)
        torn = load(checkpoint)["step"] if checkpoint.exists() else 0
        subprocess.run(
            [sys.executable, __file__, "--child", str(checkpoint), str(final)], check=True, stdout=subprocess.DEVNULL
        )
        state = torch.load(final, weights_only=True)
        equal = all(torch.equal(value, state[name]) for name, value in whole.items())
        litter = sorted(path.name for path in Path(folder).iterdir() if path.suffix == ".tmp")
    facts = {
        "final_parameters_bit_equal": equal,
        "kept_when_killed_while_writing": torn >= before,
        "side_files_of_kills": len(litter),
    }
    store("kill_resume", rows, steps=STEPS, checkpoint_every=EVERY, **facts)
    print(facts)
    if not (equal and torn >= before):
        sys.exit(1)


if __name__ == "__main__":
    main()
