"""What is running and what serves, read from records and loopback end points; nothing heavy is imported.

The ledger, not MLflow, says what is champion and candidate, so the answer is there with nothing running.
"""

import dataclasses
import datetime
import os
from pathlib import Path
from typing import Any

from flows.embedded_triton import EmbeddedTriton, triton_elsewhere
from flows.platform.services import answering
from flows.platform.supervisor import restarts
from flows.prefect_settings import ask_prefect, prefect_api, services_folder
from flows.processes import running_process
from flows.release.aliases import ALIASES, by_ledger, in_registry
from flows.release.ledger import Ledger, LedgerEntry, Release
from flows.release.registry import redacted
from flows.turns import RELEASE, Activity, activities
from relume import strict_yaml
from relume.durations import duration
from relume.errors import BrokenFileError, LedgerError, RelumeError, ServerUnreachableError
from relume.home import require_database, tracking_uri
from relume.reading import as_kind, reading
from relume.serving import repository as models
from relume.serving.route import Route
from relume.serving.signing import SignatureError, keys_of, require_signed
from relume.serving.triton_control import TritonControl

EXTERNAL = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL"}
_INTERRUPTED = {"promoting": "promotion of", "rolling_back": "rollback to"}
_SECONDS = 3.0  # for an answer of Prefect


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """One background service.

    Attributes:
        name: `mlflow`, `prefect`, `worker`, `supervisor` or `triton`.
        state: `running`, `silent` (it runs but does not answer), `stopped`, `dead` (it ended by itself),
            `not installed`, `external` (the environment names one), or `unknown` (its record is damaged).
        address: Where it listens, while it runs.
        log: File with its output.
        note: What the supervisor did about it, or None.
    """

    name: str
    state: str
    address: str | None = None
    log: str | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductStatus:
    """One product.

    Attributes:
        product: Its name.
        champion: The release that the ledger says serves, or None.
        previous: The release that a rollback goes to, or None.
        candidate: The ledger's last line about a release that was not promoted, or None.
        served: The release that the running server uses, or None.
        inference: How the champion restores; None while it is not in the model repository.
        signed: The key that signed the champion; None while it is not there, or not signed as it must be.
        answers: Whether the server restored a tile just now.
        last: The last line of the ledger about it.
    """

    product: str
    champion: Release | None
    previous: Release | None
    candidate: LedgerEntry | None
    served: str | None
    inference: str | None
    signed: str | None
    answers: bool
    last: LedgerEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """Everything that `relume status` shows.

    Attributes:
        services: The background services.
        runs: The pipeline runs and retrainings that run or wait.
        products: Every product of the ledger; None when the ledger is broken.
        unfinished: Promotions and rollbacks that were interrupted.
        schedule: The deployments of prefect.yaml: `name`, `cron`, and `next`, the next start, `active` while the
            Prefect server has not planned it yet, or None when it does not know of the deployment.
        problems: What is wrong, as sentences with the command that fixes it.
    """

    services: list[ServiceStatus]
    runs: list[Activity]
    products: list[ProductStatus] | None
    unfinished: list[LedgerEntry]
    schedule: list[dict[str, str | None]]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """The status as JSON values."""
        return dataclasses.asdict(self)


def read_status(root: Path, home: Path) -> Status:
    """Checks everything; works with nothing running, and never starts anything.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
    """
    problems: list[str] = []
    releasing = _releasing(home)
    notes = {name: str(found) for name, found in restarts(home).items()}
    names = ("mlflow", "prefect", "worker", "supervisor")
    services = [_service(home, name, notes, problems) for name in names]
    for name, owner in (("mlflow", "MLflow"), ("prefect", "Prefect")):
        try:
            require_database(home / name / f"{name}.db", owner)
        except BrokenFileError as error:
            problems.append(str(error))
    triton, served = _triton(home, problems)
    ledger = Ledger(home)
    try:
        products = [_product(home, ledger, name, served, problems) for name in ledger.products()]
        unfinished = list(ledger.unfinished())
    except (LedgerError, BrokenFileError) as error:
        products, unfinished = None, []
        problems.append(str(error))
    else:
        if ledger.torn():
            problems.append(
                "The last line of the ledger is incomplete, as a crash leaves it; the next release removes it."
            )
    found = _problems(products or [], unfinished, triton)
    if not unfinished:  # which says already that things are on their way
        try:
            found += _disagreements(home, ledger, products or [])
        except BrokenFileError as error:
            found.append(str(error))
    if releasing or _releasing(home):  # what was on its way while this looked is nothing that was interrupted
        unfinished, found = [], []
    problems += found
    schedule: list[dict[str, str | None]] = []
    prefect = next(service for service in services if service.name == "prefect")
    api = prefect_api(home) if prefect.state in ("running", "silent", "external") else None
    try:
        schedule = _schedule(root, api)
    except RelumeError as error:
        problems.append(str(error))
    return Status(
        services=[*services, dataclasses.replace(triton, note=notes.get("triton"))],
        runs=activities(home) + (_late_runs(api) if api else []),
        products=products,
        unfinished=unfinished,
        schedule=schedule,
        problems=problems,
    )


def render(status: Status) -> str:
    """The status as plain text."""
    lines = ["Services"]
    for service in status.services:
        lines.append(f"  {service.name:<10} {service.state:<14} {service.address or ''}".rstrip())
        if service.state in ("silent", "dead") and service.log:
            lines.append(f"  {'':<10} log: {service.log}")
        if service.note:
            lines.append(f"  {'':<10} {service.note}")
    if status.runs:
        lines += ["", "Runs"]
    for run in status.runs:
        lines.append(f"  {run.what:<9} {run.state:<8} {duration(run.seconds):>7}  {run.doing}".rstrip())
    for product in status.products or []:
        lines += ["", f"Product {product.product}", *_product_lines(product)]
    if status.products == []:
        lines += ["", "Nothing was released yet", "  next: run `relume pipeline run`, then `relume release`"]
    lines += ["", "Schedule"]
    for deployment in status.schedule:
        lines.append(
            f"  {deployment['name']:<15} {deployment['cron']:<14} {deployment['next'] or 'stopped; run `relume up`'}"
        )
    if status.problems:
        lines += ["", "Problems", *(f"  {problem}".replace("\n", "\n  ") for problem in status.problems)]
    return "\n".join(lines) + "\n"


def _product_lines(product: ProductStatus) -> list[str]:
    served = product.served or "nothing"
    if product.served and not product.answers:
        served += ", which does not answer"
    lines = [
        f"  champion  {_release(product.champion)}",
        f"  previous  {_release(product.previous)}",
        f"  served    {served}",
    ]
    if product.inference:
        lines.append(f"  restores  in {product.inference}")
    if product.signed:
        lines.append(f"  signed    by the key {product.signed}")
    if product.candidate:
        lines.append(f"  candidate {_release(product.candidate.release)}, {product.candidate.event}")
        lines += [f"            {failed}" for failed in product.candidate.details.get("failed", [])]
    lines.append(f"  last      {product.last.event} {product.last.release.model}, {product.last.time}")
    return lines


def _release(release: Release | None) -> str:
    return f"{release.model} (version {release.version})" if release else "none"


def _releasing(home: Path) -> bool:
    return any(run.what == RELEASE for run in activities(home))


def _late_runs(api: str) -> list[Activity]:
    """Flow runs whose time has come and that no worker has started."""
    now = datetime.datetime.now(datetime.UTC)
    asked = {
        "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
        "expected_start_time": {"before_": now.isoformat()},
        "deployment_id": {"is_null_": False},
    }
    try:
        late = ask_prefect(api, "flow_runs/filter", {"flow_runs": asked, "limit": 20}, timeout=_SECONDS)
        return [
            Activity(
                what="retrain",
                state="waiting",
                doing="for the worker",
                seconds=(now - datetime.datetime.fromisoformat(run["expected_start_time"])).total_seconds(),
                pid=None,
            )
            for run in late
        ]
    except (OSError, ValueError, KeyError):
        return []


def _service(home: Path, name: str, notes: dict[str, str], problems: list[str]) -> ServiceStatus:
    folder, note = services_folder(home), notes.get(name)
    log = folder / f"{name}.log"
    if name in EXTERNAL and (address := os.environ.get(EXTERNAL[name])):
        return ServiceStatus(name=name, state="external", address=redacted(address))
    try:
        record = running_process(folder, name)
    except BrokenFileError as error:
        problems.append(str(error))
        return ServiceStatus(name=name, state="unknown", log=str(log) if log.is_file() else None)
    if record is None:
        state = "dead" if (folder / f"{name}.json").is_file() else "stopped"
        return ServiceStatus(name=name, state=state, log=str(log) if log.is_file() else None, note=note)
    state = "running" if answering(home, name, timeout=1.0) else "silent"
    return ServiceStatus(name=name, state=state, address=record.address, log=str(log), note=note)


def _triton(home: Path, problems: list[str]) -> tuple[ServiceStatus, dict[str, tuple[str | None, bool]]]:
    """The server, and by product the release it uses and whether that answers."""
    if address := triton_elsewhere():
        return _triton_elsewhere(home, address)
    try:
        found = EmbeddedTriton(home).status(timeout=2.0)
    except BrokenFileError as error:
        problems.append(str(error))
        return ServiceStatus(name="triton", state="unknown"), {}
    except RelumeError:  # it ended while it was asked
        return ServiceStatus(name="triton", state="silent"), {}
    service = ServiceStatus(
        name="triton",
        state="running" if found.state == "ready" else found.state,
        address=found.server.grpc if found.server else None,
        log=found.log,
    )
    return service, {name: (product.served, product.answers) for name, product in found.products.items()}


def _triton_elsewhere(home: Path, address: str) -> tuple[ServiceStatus, dict[str, tuple[str | None, bool]]]:
    found: dict[str, tuple[str | None, bool]] = {}
    with TritonControl(address) as control:
        state = "external" if control.server() else "silent"
        try:
            for product in models.products(EmbeddedTriton(home).repository) if state == "external" else ():
                served = control.product_release(product)
                found[product] = served, served is not None and control.answers(product, timeout=2.0)
        except ServerUnreachableError:  # it ended since
            state, found = "silent", {}
    return ServiceStatus(name="triton", state=state, address=redacted(address)), found


def _product(
    home: Path, ledger: Ledger, name: str, served: dict[str, tuple[str | None, bool]], problems: list[str]
) -> ProductStatus:
    release, answering = served.get(name, (None, False))
    champion = ledger.current(name)
    inference = signed = None
    repository = EmbeddedTriton(home).repository
    try:
        inference = models.inference_of(repository, champion.model) if champion else None
        if champion and inference:
            signed = require_signed(repository / champion.model, keys_of(home))
    except (BrokenFileError, SignatureError) as error:
        problems.append(str(error))
    return ProductStatus(
        product=name,
        champion=champion,
        previous=ledger.previous(name),
        candidate=ledger.candidate(name),
        served=release,
        inference=str(inference) if inference else None,
        signed=signed,
        answers=answering,
        last=[entry for entry in ledger.entries() if entry.release.product == name][-1],
    )


def _disagreements(home: Path, ledger: Ledger, products: list[ProductStatus]) -> list[str]:
    """What is not as the ledger says, although nothing was interrupted in between: aliases and folders."""
    found, repository = [], EmbeddedTriton(home).repository
    pointing, folders = models.products(repository), models.releases(repository)
    for product in products:
        name, wanted = product.product, by_ledger(ledger, product.product)
        aliases = in_registry(tracking_uri(home), name)
        if aliases is not None:
            found += [
                f"The alias {alias} of {name} in MLflow is {_version(aliases.get(alias))}, the ledger says "
                f"{_version(wanted.get(alias))}; run `relume up` to fix it."
                for alias in ALIASES
                if aliases.get(alias) != wanted.get(alias)
            ]
        kept = {release.model for release in (product.champion, product.previous) if release}
        route = pointing.get(name)
        if product.champion and route and route != Route(champion=product.champion.model):
            found.append(
                f"The model repository says {route.candidate or route.champion} for {name}, the ledger"
                f" {product.champion.model}; run `relume up` to fix it."
            )
        for left in folders:
            if left.startswith(f"{name}-") and left not in kept:
                found.append(f"The release {left} is left in the model repository; run `relume up` to remove it.")
    return found


def _version(number: str | None) -> str:
    return f"version {number}" if number else "nothing"


def _problems(products: list[ProductStatus], unfinished: list[LedgerEntry], triton: ServiceStatus) -> list[str]:
    problems = [
        f"The {_INTERRUPTED[entry.event]} {entry.release.model}, begun {entry.time}, was interrupted; "
        f"run `relume up` or `relume rollback --product {entry.release.product}` to fix it."
        for entry in unfinished
    ]
    for product in products:
        if triton.state == "running" and product.champion:
            if product.served != product.champion.model:
                problems.append(f"{product.product} is not served by its champion; run `relume up` to fix it.")
            elif not product.answers:
                problems.append(f"{product.product} does not answer; run `relume up` to load it again.")
    return problems


def _schedule(root: Path, api: str | None) -> list[dict[str, str | None]]:
    path = root / "prefect.yaml"
    if not os.path.lexists(path):
        return []
    value = strict_yaml.read(path).value
    with reading(path, next_step="git checkout prefect.yaml"):
        deployments = as_kind(_Deployments, value).deployments
    upcoming = _next_runs(api) if api else {}
    return [
        {"name": deployment.name, "cron": schedule.cron, "next": upcoming.get(deployment.name)}
        for deployment in deployments
        for schedule in deployment.schedules
    ]


@dataclasses.dataclass(frozen=True)
class _Schedule:
    cron: str


@dataclasses.dataclass(frozen=True)
class _Deployment:
    name: str
    schedules: list[_Schedule] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Deployments:
    """What `status` reads of prefect.yaml."""

    deployments: list[_Deployment]


def _next_runs(api: str) -> dict[str, str]:
    """What a running Prefect server plans, by deployment name."""
    try:
        names = {found["id"]: found["name"] for found in ask_prefect(api, "deployments/filter", {}, timeout=_SECONDS)}
        scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = ask_prefect(api, "flow_runs/filter", scheduled | {"limit": 50}, timeout=_SECONDS)
    except (OSError, ValueError):
        return {}
    upcoming = dict.fromkeys(names.values(), "active")
    for run in reversed(runs):
        if run["deployment_id"] in names:
            upcoming[names[run["deployment_id"]]] = f"next {run['expected_start_time'][:16].replace('T', ' ')} UTC"
    return upcoming
