"""What is installed is what the repository holds, and importing it is light and harmless."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import physzoo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Names on conda-forge that differ from those on the Python package index.
CONDA = {"torch": "pytorch", "dolfinx-solver-real": "fenics-dolfinx", "build": "python-build"}


def package(requirement: str) -> str:
    """The bare name in a requirement."""
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower()


def minimum(requirement: str) -> str | None:
    """The lowest version that a requirement allows."""
    found = re.search(r">=\s*([0-9.]+)", requirement)
    return found.group(1) if found else None


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from the repository."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    # built from a copy, so that the repository gets no build folder; links stay links
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "reports", "build"),
    )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_every_module_and_the_data(wheel: list[str]) -> None:
    expected = {f"physzoo/{path.name}" for path in (ROOT / "physzoo").glob("*.py")}
    for room in ("models", "models/datasets", "guides", "physics", "inference"):
        expected |= {f"physzoo/{room}/{path.name}" for path in (ROOT / room).glob("*.py")}
    expected |= {f"physzoo/models/data/{path.name}" for path in (ROOT / "models" / "data").iterdir() if path.is_file()}
    assert expected | {"physzoo/py.typed"} <= set(wheel)


def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    assert [name for name in wheel if not name.startswith(("physzoo/", "physzoo-"))] == []
    assert [name for name in wheel if "test" in name] == []


def test_import_is_light_and_changes_nothing() -> None:
    code = """
import json, sys
import torch
from torch.distributions import Distribution
def state():
    return [str(torch.get_default_dtype()), torch.get_num_threads(), Distribution._validate_args,
            torch.get_rng_state().sum().item(), torch.is_grad_enabled()]
before = state()
import physzoo
import physzoo.models, physzoo.guides, physzoo.physics, physzoo.inference, physzoo.cli
for name in physzoo.__all__:
    getattr(physzoo, name)
print(json.dumps({"same": before == state(), "modules": sorted(sys.modules)}))
"""
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    heavy = {
        "dolfinx",
        "mpi4py",
        "petsc4py",
        "matplotlib",
        "arviz",
        "arviz_base",
        "arviz_plots",
        "sklearn",
        "xarray",
    }
    assert found["same"]
    assert heavy & set(found["modules"]) == set()


def test_import_alone_does_not_even_load_torch() -> None:
    code = "import sys, physzoo; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["nonsense"], []])
def test_help_and_mistakes_on_the_command_line_do_not_wait_for_torch(words: list[str]) -> None:
    code = f"""
import sys
from physzoo.cli import main
sys.argv = ["physzoo", *{words!r}]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "False", found.stderr


def test_the_installation_is_this_repository() -> None:
    code = "import physzoo, physzoo.models, os; print(os.path.realpath(physzoo.__file__))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert Path(found.stdout.strip()) == (ROOT / "physzoo" / "__init__.py").resolve()
    assert physzoo.__version__ == PROJECT["version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = physzoo.nothing


def test_conda_and_pip_ask_for_the_same_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = {package(entry): minimum(entry) for entry in environment["dependencies"] if isinstance(entry, str)}
    extras = PROJECT["optional-dependencies"]
    wanted = {package(entry): minimum(entry) for entry in [*PROJECT["dependencies"], *extras["fem"], *extras["dev"]]}
    translated = {CONDA.get(name, name): version for name, version in wanted.items()}
    # the pip extras of arviz, and what pip and conda themselves need
    extra = {"python", "pip", "h5netcdf", "matplotlib-base"}
    assert {name: version for name, version in conda.items() if name not in extra} == translated
    assert conda["python"] == PROJECT["requires-python"].removeprefix(">=")


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {package(line) for line in lines if line and not line.startswith("#")}
    assert all("==" in line and "/" not in line for line in lines if line and not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    wanted = {package(entry) for entry in [*PROJECT["dependencies"], *extras["fem"], *extras["dev"]]}
    assert wanted - pinned == set()
