"""The files of the model families that the parameters name, found in a checkout's registry without importing it."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from relume.errors import ConfigError
from relume.params_file import PARAMS, read_values

REGISTRY = "relume/models/registry.py"


@dataclass(frozen=True)
class Families:
    """The files of the model families that the parameters name.

    Args:
        root: The checkout.
    """

    root: Path

    @cached_property
    def params(self) -> dict[str, Any]:
        """All parameters; empty without params.yaml."""
        return read_values(self.root).value if (self.root / PARAMS).is_file() else {}

    @cached_property
    def bases(self) -> dict[str, set[str]]:
        """The files of each base by its name."""
        bases = (self.params.get("pretrain") or {}).get("bases") or {}
        return {str(name): self._files(base, f"pretrain.bases.{name}") for name, base in bases.items()}

    def after_bases(self, final: bool) -> set[str]:
        """The files of the bases and of the fusion; those of the final model as well, when `final`."""
        files = set().union(*self.bases.values())
        files |= self._files((self.params.get("ensemble_head") or {}).get("fusion"), "ensemble_head.fusion")
        if final and (self.params.get("finetune_hard") or {}).get("adapt") == "biases":
            files.add(self._file("bias_adapted", "finetune_hard.adapt"))
        return files

    def _files(self, value: Any, key: str) -> set[str]:
        """The files of all architectures named anywhere in a value; wrappers name that of what they wrap."""
        if isinstance(value, list):
            return set().union(*(self._files(entry, f"{key}.{i}") for i, entry in enumerate(value)))
        if not isinstance(value, dict):
            return set()
        files = set().union(*(self._files(entry, f"{key}.{name}") for name, entry in value.items()))
        if "architecture" in value:
            files.add(self._file(value["architecture"], f"{key}.architecture"))
        return files

    def _file(self, architecture: str, key: str) -> str:
        module = self._modules.get(architecture)
        if module is None:
            raise ConfigError(
                "The architecture is unknown",
                where=f"{key}={architecture!r}",
                why=f"{REGISTRY} does not have it",
                next_step=f"choose one of: {', '.join(sorted(self._modules))}",
            )
        return f"{module.replace('.', '/')}.py"

    @cached_property
    def _modules(self) -> dict[str, str]:
        """The module of each architecture, read from the checkout's registry without importing it."""
        for node in ast.parse((self.root / REGISTRY).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and "ARCHITECTURES" in [ast.unparse(target) for target in node.targets]:
                return {name: module for name, (module, _) in ast.literal_eval(node.value).items()}
        raise ConfigError(
            "The registry of models has no ARCHITECTURES", where=self.root / REGISTRY, next_step=f"correct {REGISTRY}"
        )
