"""The one graph of dvc.yaml, read once from DVC into plain values."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from relume import strict_yaml
from relume.errors import GraphError
from relume.nearest import did_you_mean
from relume.params import load_params
from relume.settings import Settings

SCHEMA = "relume/params.py"


class Meta(Settings):
    """What a stage needs, its `meta` in dvc.yaml.

    Attributes:
        image: Container image.
        cpu: Cores.
        memory: Such as 2Gi or 512Mi.
        gpu: GPUs, 0 for none.
        machines: That train together, each with these cores, memory and GPUs: Jobs of Kubernetes. Elsewhere it is one.
        retries: How often it is tried again after a failure.
        timeout: Seconds after which it is ended.
    """

    image: str = Field(min_length=1)
    cpu: float = Field(ge=0.1)
    memory: str = Field(pattern=r"^[1-9]\d*(Mi|Gi)$")
    gpu: int = Field(ge=0)
    machines: int = Field(default=1, ge=1)
    retries: int = Field(ge=0)
    timeout: int = Field(ge=1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the graph, after DVC resolved its templates.

    Args:
        name: The name as DVC addresses it, such as `pretrain@nafnet`.
        command: The shell command that runs it.
        deps: Paths it reads, relative to the checkout, params files left out.
        outs: Paths it writes, metrics and plots included.
        params: Dotted keys of params.yaml and recipe.yaml that it depends on.
        meta: What it needs, as written; see `Meta`.
        upstream: Names of the stages whose outs it reads.
        inputs: The outs of those stages that it reads; finer than deps where a dep is a folder of several outs.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    upstream: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    @property
    def component(self) -> str | None:
        """The dotted module that the command runs by `python -m`, or None when it runs something else."""
        words = shlex.split(self.command)
        if len(words) < 3 or words[:2] != ["python", "-m"] or not words[2].startswith("components."):
            return None
        return words[2]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All stages in the order in which `dvc repro` runs them, each after the stages it reads from.

    Args:
        root: The checkout.
        stages: Stages by name, in that order.
    """

    root: Path
    stages: dict[str, Stage]

    def with_upstream(self, names: list[str]) -> dict[str, Stage]:
        """The named stages and everything they need, in the order of the graph.

        Args:
            names: Stage names; the name of a group such as `pretrain` stands for all of its stages.

        Raises:
            GraphError: A name is not in the graph.
        """
        wanted: set[str] = set()
        groups = {*self.stages, *(stage.partition("@")[0] for stage in self.stages)}
        for name in names:
            found = [stage for stage in self.stages if stage == name or stage.partition("@")[0] == name]
            if not found:
                raise GraphError(
                    "The graph has no stage of this name",
                    where=name,
                    why=did_you_mean(name, groups),
                    next_step=f"choose one of: {', '.join(self.stages)}",
                )
            wanted.update(found)
        for name in reversed(self.stages):
            if name in wanted:
                wanted.update(self.stages[name].upstream)
        return {name: stage for name, stage in self.stages.items() if name in wanted}


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where DVC keeps the outs of a checkout.

    Args:
        cache: The cache folder.
        remote: Name of the default remote, or None.
        remotes: The folder of each remote that is one.
    """

    cache: Path
    remote: str | None
    remotes: Mapping[str, Path] = field(default_factory=dict)


def _overlaps(out: str, deps: tuple[str, ...]) -> bool:
    return any(f"{out}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{out}/") for dep in deps)


def read_graph(repository: str | Path = ".", config: dict[str, Any] | None = None) -> Graph:
    """Reads the graph of a checkout.

    This module is the only one that uses DVC's Python interface, and for reading alone. The parameters of a checkout
    that has a schema of them are checked first, so that nothing runs with a wrong one.

    Args:
        repository: The checkout.
        config: Settings of DVC over those of the checkout. A clone that is gone soon needs `site_cache_dir`: else DVC
            keeps a folder for it in /var/tmp for ever.

    Raises:
        GraphError: The folder is not a DVC repository, or DVC refuses dvc.yaml or a parameter file.
        ConfigError: Parameters are refused; names each.
    """
    import networkx
    from dvc.dependency import ParamsDependency

    root = Path(repository).resolve()
    if not (root / "dvc.yaml").is_file():
        raise GraphError(
            "The pipeline graph does not exist",
            where=root / "dvc.yaml",
            next_step="change to the top folder of a relume checkout",
        )
    for name in ("dvc.yaml", "dvc.lock"):  # DVC unfolds references without end
        if (root / name).is_file():
            strict_yaml.require_readable(root / name)
    if (root / SCHEMA).is_file():
        load_params(root)
    with _repo(root, config) as repo:
        graph = repo.index.graph
        order = [stage for stage in networkx.dfs_postorder_nodes(graph) if stage.path == str(root / "dvc.yaml")]
        stages = {}
        for stage in order:
            deps = tuple(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency))
            before = sorted(graph.successors(stage), key=order.index)
            stages[stage.name] = Stage(
                name=stage.name,
                command=stage.cmd,
                deps=deps,
                outs=tuple(out.def_path for out in stage.outs),
                params=tuple(key for dep in stage.params for key in dep.params),
                meta=dict(stage.meta or {}),
                upstream=tuple(node.name for node in before),
                inputs=tuple(out.def_path for node in before for out in node.outs if _overlaps(out.def_path, deps)),
            )
        return Graph(root=root, stages=stages)


def read_store(repository: str | Path = ".") -> Store:
    """Reads where DVC keeps the outs of a checkout.

    Raises:
        GraphError: The folder is not a DVC repository.
    """
    with _repo(Path(repository).resolve()) as repo:
        addresses = {name: str(remote["url"]) for name, remote in repo.config["remote"].items()}
        remotes = {name: Path(address) for name, address in addresses.items() if os.path.isabs(address)}
        return Store(cache=Path(repo.cache.local_cache_dir), remote=repo.config["core"].get("remote"), remotes=remotes)


@contextlib.contextmanager
def _repo(root: Path, config: dict[str, Any] | None = None) -> Iterator[Any]:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(root), config=config) as repo:
            yield repo
    except NotDvcRepoError:
        raise GraphError(
            "The folder is not a DVC repository", where=root, next_step=f"run `dvc init` in {root}"
        ) from None
    except DvcException as error:
        raise GraphError(
            "DVC refuses the graph",
            where=root / "dvc.yaml",
            why=error,
            next_step="correct dvc.yaml, and check it with `dvc dag`",
        ) from None
