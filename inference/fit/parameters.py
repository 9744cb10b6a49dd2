"""The parameters that a fit trains: those of modules, and those that functions keep in Pyro's store by ``pyro.param``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints as supports


class Parameters(Messenger):
    """Pyro's store for one fit, as a context: what functions keep there goes in and comes out, what modules keep does not.

    Values of functions that the store holds are where training starts, as under ``SVI``. Parameters of modules, which Pyro
    announces there too, stay in the modules.

    Args:
        modules: model and guide, where they are modules.
        device: where the parameters of functions are taken; None leaves them.
    """

    _before: Any

    def __init__(self, modules: Mapping[str, nn.Module], device: str | None = None) -> None:
        super().__init__()
        self.modules, self.device = modules, device
        self.frozen = [p for part in modules.values() for p in part.parameters() if not p.requires_grad]
        self.used: dict[
            str, bool
        ] = {}  # name -> whether a module has it, in the order in which they were first asked for
        self.waiting: dict[str, Tensor] = {}  # of a checkpoint, not asked for yet

    def __enter__(self) -> Parameters:
        store = pyro.get_param_store()
        self._before = store.get_state()
        own = [
            name.removesuffix("_unconstrained") for part in self.modules.values() for name, _ in part.named_parameters()
        ]
        kept = {
            name: value
            for name, value in self._before["params"].items()
            if not isinstance(value, nn.Parameter) and not any(name == o or name.endswith(f".{o}") for o in own)
        }
        if self.device is not None:
            for value in kept.values():
                value.data = value.data.to(self.device)
        store.clear()
        store.set_state({"params": kept, "constraints": {n: self._before["constraints"][n] for n in kept}})
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        super().__exit__(*error)
        self.freeze()
        store = pyro.get_param_store()
        left = {name: value for name, value in self.of_functions().items() if not self.used.get(name, True)}
        constraints = {name: store._constraints[name] for name in left}
        store.clear()
        store.set_state(
            {
                "params": {**self._before["params"], **left},
                "constraints": {**self._before["constraints"], **constraints},
            }
        )

    def _pyro_param(self, msg: Any) -> None:
        name, store = msg["name"], pyro.get_param_store()
        init, held = (*msg["args"], None)[1], store._params.get(name)
        if isinstance(init, nn.Parameter) and not init.requires_grad:
            msg["value"], msg["done"] = init, True  # the store would thaw what is frozen
            return
        # what a module announces is its own tensor, or stands in the store before
        of_module = isinstance(held, nn.Parameter) and (init is None or init is held)
        self.used[name] = self.used.get(name, False) or of_module
        if name in self.waiting:
            value = self.waiting.pop(name)
            store._constraints[name] = msg["kwargs"].get("constraint", supports.real)
            store._params[name] = value
            store._param_to_name[value] = name

    def freeze(self) -> None:
        """Freeze again what was frozen: Pyro's store thaws parameters where autoguides run a model out of sight."""
        for value in self.frozen:
            value.requires_grad_(False)

    def of_functions(self) -> dict[str, Tensor]:
        """Return the unconstrained parameters that model and guide took from the store and that no module of the fit has."""
        own = {id(value) for part in self.modules.values() for value in part.parameters()}
        held = pyro.get_param_store()._params
        found = {name: held[name] for name in self.used if name in held}
        return {n: v for n, v in {**found, **self.waiting}.items() if id(v) not in own and v.requires_grad}

    def all(self) -> list[Tensor]:
        """Return all parameters that take a gradient, each once: of the modules, then of functions."""
        seen: dict[int, Tensor] = {}
        values = [value for part in self.modules.values() for value in part.parameters() if value.requires_grad]
        for value in (*values, *self.of_functions().values()):
            seen.setdefault(id(value), value)
        return list(seen.values())

    def state(self, copy: bool = False) -> dict[str, dict[str, Tensor]]:
        """Return the state of the modules by name, and of the functions under "functions" where there are any."""
        state = {name: dict(part.state_dict()) for name, part in self.modules.items()}
        functions = {name: value.detach() for name, value in self.of_functions().items()}
        state |= {"functions": functions} if functions else {}
        return {n: {k: v.clone() for k, v in s.items()} for n, s in state.items()} if copy else state

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Set modules and functions to a state."""
        for name, part in self.modules.items():
            part.load_state_dict(state[name])
        held = self.of_functions()
        with torch.no_grad():
            for name, value in state.get("functions", {}).items():
                if name in held:
                    held[name].copy_(value)
                else:
                    self.waiting[name] = value.clone().requires_grad_()
