"""Trained models: tensors as safetensors, and beside them JSON that says how they came about.

    models/data/weights/NAME.safetensors    "model/..." and "guide/...", float32
    models/data/weights/NAME.json           command, seed, versions, recipe, metrics

Nothing is pickled. ``load`` rebuilds model and guide from the animal's own recipe and fills them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .core.files import check_writable, replacing
from .core.require import named, shown
from .folder import is_file, plain
from .task import RunOptions, Task, animal_named, build_task


@dataclass(frozen=True)
class Trained:
    """A trained animal.

    Attributes:
        name: the animal.
        model, guide: ready to use, in float32.
        facts: command, seed, versions, recipe and metrics of the training.
    """

    name: str
    model: Any
    guide: Any
    facts: Mapping[str, Any]


def available() -> tuple[str, ...]:
    """Return the names of the animals whose weights come with the package."""
    return tuple(sorted(path.stem for path in _folder().glob("*.safetensors")))


def load(name: str, path: str | Path | None = None) -> Trained:
    """Return a trained animal: one object with ``model``, ``guide`` and ``facts``.

    Args:
        name: an animal of the zoo.
        path: a .safetensors file written by ``save``; by default the one that comes with the package.

    Raises:
        ValueError: no weights of that name, or a file that is not of this animal.

    Example:
        >>> trained = physzoo.load("pendulum")  # doctest: +SKIP
        >>> draws = trained.guide.sample({"x": x}, 100)  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    animal_named(name)
    if path is not None and not isinstance(path, str | Path):
        raise TypeError(f"path: got {shown(path)}, expected the path of a file")
    file = _folder() / f"{name}.safetensors" if path is None else Path(path)
    if path is not None and not is_file(file):
        raise ValueError(f"path: got '{str(file)[-120:]}', expected a file written by save")
    if not is_file(file):
        known = ", ".join(available()) or "none"
        raise ValueError(f"name: got '{name}' without weights at '{file.name}', expected one of {known}")
    task = build_task(animal_named(name), RunOptions(progress=False), None, 0)
    try:
        tensors = load_file(file)
        for part, module in (("model", task.model), ("guide", task.guide)):
            state = {key.removeprefix(f"{part}/"): v for key, v in tensors.items() if key.startswith(f"{part}/")}
            module.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError, ValueError, MemoryError) as error:
        reason = str(error).split("\n", 1)[0][:160]
        raise ValueError(f"path: got '{file}', expected weights of {name} as physzoo writes them ({reason})") from None
    return Trained(name, task.model.eval(), task.guide.eval(), _facts(file.with_suffix(".json")))


def _facts(file: Path) -> dict[str, Any]:
    """Return what stands beside the weights; nothing where the file is missing."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8")) if is_file(file) else {}
    except (OSError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(f"path: got '{file}', which is damaged, expected the facts of the weights beside it")
    return facts


def save(task: Task, facts: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """Write weights and facts of a fitted task, both to the side and renamed; return the path of the weights.

    Raises:
        OSError: a file could not be written; what stood there is left as it was.
    """
    from safetensors.torch import save as packed

    if not isinstance(task, Task):
        raise TypeError(f"task: got {shown(task)}, expected a fitted Task")
    named("facts", facts)
    if folder is not None and not isinstance(folder, str | Path):
        raise TypeError(f"folder: got {shown(folder)}, expected the path of a folder")
    target = _folder() if folder is None else Path(folder)
    try:
        check_writable(target / f"{task.animal.name}.safetensors")
    except ValueError as error:
        raise ValueError(f"folder: {error}") from None
    tensors = {
        f"{part}/{key}": value.detach().to("cpu").contiguous().clone()
        for part, module in (("model", task.model), ("guide", task.guide))
        for key, value in module.state_dict().items()
    }
    tensors = {key: value.float() if value.dtype == torch.float64 else value for key, value in tensors.items()}
    path = target / f"{task.animal.name}.safetensors"
    written = {path.with_suffix(".json"): (json.dumps(plain(facts), indent=2) + "\n").encode(), path: packed(tensors)}
    with ExitStack() as stack:
        for file, content in written.items():  # both are on the disk before either is renamed
            beside = stack.enter_context(replacing(file))
            beside.write_bytes(content)
            beside.chmod(0o644)
    return path


def _folder() -> Path:
    """Where the package's weights lie: beside the models, installed or not."""
    from .models import registry

    return Path(registry.__file__).parent / "data" / "weights"
