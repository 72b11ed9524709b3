"""infra/compose.yaml as a whole, by podman-compose with the images of infra/compose.local.yaml.

What the page on running the platform says is done and looked at: photographs go into the S3 store, the deployment
`retrain` makes a release of them, Triton serves it, and the gateway restores.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from flows.processes import free_port
from relume.images import decode, save_image
from relume.ingestion.sources import BUILT_IN
from relume.serving.onnx_restorer import OnnxRestorer
from tests.flows.tiny import make_tiny
from tests.flows.toy import wait_until

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(3000)]

INFRA = Path(__file__).parents[2] / "infra"
PODMAN, COMPOSE = ["sh", str(INFRA / "containers" / "podman.sh")], ["sh", str(INFRA / "containers" / "compose.sh")]
IMAGES = ("platform", "postgres", "s3", "prometheus", "triton")
# In the order of their dependencies, as the page says.
STEPS = (("postgres", "s3"), ("mlflow", "prefect"), ("worker",), ("triton", "prometheus"))
SERVICES = {"postgres", "s3", "mlflow", "prefect", "worker", "triton", "prometheus", "gateway"}
PUBLISHED = {"mlflow": 5000, "prefect": 4200, "gateway": 8770}
# As who may put photographs into the store; no service has that key, so it comes with the code.
UPLOAD = f"""\
import boto3
from relume.ingestion.sources import PACKAGES, open_source
s3 = boto3.client("s3", aws_access_key_id="KEY", aws_secret_access_key="SECRET")
s3.create_bucket(Bucket="photos")
for name in {BUILT_IN[-12:]!r}:
    s3.put_object(Bucket="photos", Key="all/" + name.rpartition("/")[2], Body=open_source(PACKAGES + name))
"""
# What an identity is refused is printed.
CALLS = ("list_objects_v2", "put_object", "delete_object")
TRY = f"""\
CALLS = {CALLS!r}
import boto3, botocore, sys
s3 = boto3.client("s3")
for bucket in ("photos", "mlflow", "dvc"):
    for what in CALLS:
        try:
            getattr(s3, what)(Bucket=bucket, **(dict() if what == "list_objects_v2" else dict(Key="tried")))
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "AccessDenied":
                print("refused", bucket, what)
"""


@dataclass(frozen=True)
class Platform:
    """The running platform.

    Attributes:
        checkout: The worker's, on this machine.
        secrets: What each secret file holds.
        ports: Of this machine, by service.
        environment: Of the commands.
    """

    checkout: Path
    secrets: dict[str, str]
    ports: dict[str, int]
    environment: dict[str, str]

    @property
    def project(self) -> str:
        """The name that all containers, networks and volumes begin with."""
        return self.environment["COMPOSE_PROJECT_NAME"]

    def keys(self) -> dict[str, tuple[str, str]]:
        """The keys of the S3 store by who has them."""
        identities = json.loads(self.secrets["s3.json"])["identities"]
        found = {each["name"]: each["credentials"][0] for each in identities}
        return {name: (each["accessKey"], each["secretKey"]) for name, each in found.items()}

    def compose(self, *arguments: str) -> None:
        """Runs infra/containers/compose.sh."""
        done = subprocess.run([*COMPOSE, *arguments], env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()

    def up(self, *services: str) -> None:
        """Starts services and waits until all that were started are healthy."""
        self.compose("up", "--detach", *services)
        self.compose("healthy")

    def podman(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What a command of podman prints."""
        done = subprocess.run(
            [*PODMAN, *arguments], env=self.environment, input=stdin, capture_output=True, text=True, timeout=900
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, service: str, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """What a command in a service's container prints."""
        return self.podman("exec", "--interactive", self.container(service), *command, stdin=stdin, check=check)

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{self.project}_{service}_1"

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine keeps of a service's container."""
        (found,) = json.loads(self.podman("inspect", self.container(service)))
        return found

    def logs(self) -> str:
        """The last lines of all containers, for a failure."""
        names = self.podman("ps", "--all", "--format", "{{.Names}}", check=False).split()
        return "".join(f"--- {each}\n{self.podman('logs', '--tail', '30', each, check=False)}" for each in names)

    def restore(self, image: bytes) -> np.ndarray:
        """What the gateway makes of an image."""
        return decode(self.ask(image, self.secrets["gateway_token"])).pixels

    def ask(self, image: bytes, token: str) -> bytes:
        """The gateway's answer to who shows a token."""
        address = f"http://127.0.0.1:{self.ports['gateway']}/v1/restore"
        request = urllib.request.Request(address, image, {"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """All of it but Grafana, with a release that the deployment `retrain` made."""
    if os.geteuid():
        pytest.skip("needs root, since networks of containers do")
    if shutil.which("podman") is None or not Path("/usr/lib/podman/netavark").exists():
        pytest.skip("needs podman with netavark: sh infra/containers/setup.sh")
    for kind in IMAGES:
        if subprocess.run([*PODMAN, "image", "exists", f"relume-{kind}"]).returncode:
            pytest.skip(f"needs images: sh infra/containers/build.sh {' '.join(IMAGES)}")
    folder = tmp_path_factory.mktemp("compose")
    checkout = make_tiny(folder / "checkout", folder / "unused")
    params = yaml.safe_load((checkout.root / "params.yaml").read_text())
    params["release"] |= {"min_gain_over_input_db": {"clipped": {50: -100.0}}, "min_gain_over_nlm_db": -100.0}
    params["release"]["latency_ms_per_tile"] = 60000
    checkout.write("params.yaml", yaml.safe_dump(params, sort_keys=False))
    checkout.commit()
    subprocess.run(["chown", "--recursive", "10001:10001", checkout.root], check=True)
    subprocess.run(["sh", INFRA / "secrets.sh", folder / "secrets"], check=True)
    ports = {service: free_port() for service in PUBLISHED}
    running = Platform(
        checkout=checkout.root,
        secrets={path.name: path.read_text() for path in (folder / "secrets").iterdir()},
        ports=ports,
        environment=os.environ
        | {f"{service.upper()}_PORT": str(port) for service, port in ports.items()}
        | {
            "COMPOSE_PROJECT_NAME": "relume-test",
            "RELUME_CHECKOUT": str(checkout.root),
            "RELUME_SECRETS": str(folder / "secrets"),
        },
    )
    running.compose("down", "--volumes")  # what a killed test left
    try:
        for step in STEPS:
            running.up(*step)
        key, secret = running.keys()["admin"]
        running.run("worker", "python", "-", stdin=UPLOAD.replace("KEY", key).replace("SECRET", secret))
        running.run("worker", "relume", "data", "scan", "s3://photos/all")
        retrained = running.run("worker", "relume", "retrain", "--watch")
        assert "completed" in retrained, retrained + running.logs()
        running.up("gateway")
        yield running
    finally:
        running.compose("down", "--volumes")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> bytes:
    """A PNG of noise, larger than a tile."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    save_image(path, np.random.default_rng(3).integers(0, 256, (200, 300, 3), np.uint8))
    return path.read_bytes()


def restored_by_package(platform: Platform, image: bytes) -> np.ndarray:
    """The image restored in this process by the package that the retraining made."""
    return OnnxRestorer(platform.checkout / "package" / "serving").restore(decode(image).pixels).image


def differ(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference of two images in levels."""
    return int(np.abs(first.astype(int) - second).max())


def test_the_release_of_the_retraining_restores_through_the_gateway(platform, image):
    """Within the one level that a release allows of ONNX Runtime in process; without the token there is no answer."""
    assert differ(platform.restore(image), restored_by_package(platform, image)) <= 1
    with pytest.raises(urllib.error.HTTPError, match="401"):
        platform.ask(image, "not-the-token-of-it")


def test_the_state_is_in_the_databases_and_the_object_store(platform):
    """Runs and the registered model in PostgreSQL, the package in the bucket, and what the worker says of it all."""

    def rows(database: str, query: str) -> str:
        command = (
            "psql",
            "--username",
            "relume",
            "--dbname",
            database,
            "--tuples-only",
            "--no-align",
            "--command",
            query,
        )
        return platform.run("postgres", *command).strip()

    assert int(rows("mlflow", "SELECT count(*) FROM runs")) >= 1
    assert rows("mlflow", "SELECT name FROM registered_models") == "denoise"
    assert "COMPLETED" in rows("prefect", "SELECT state_type FROM flow_run WHERE name IS NOT NULL")
    listing = 'import boto3; print(*(each.key for each in boto3.resource("s3").Bucket("mlflow").objects.all()))'
    assert "/artifacts/package/serving/serving.json" in platform.run("mlflow", "python", "-c", listing)
    status = platform.run("worker", "relume", "status")
    assert status.count(" external ") == 3, status  # MLflow, Prefect, Triton
    assert "champion  denoise-" in status
    assert "stopped; run" not in status


def test_only_the_gateway_and_the_user_interfaces_are_published_and_on_loopback(platform):
    """By the engine's word, and by trying this machine's other addresses."""
    found = {
        service: ports
        for service in SERVICES
        if (ports := {p: at for p, at in platform.inspect(service)["NetworkSettings"]["Ports"].items() if at})
    }
    expected = {service: {f"{inner}/tcp"} for service, inner in PUBLISHED.items()}
    assert {service: set(ports) for service, ports in found.items()} == expected
    assert {at["HostIp"] for ports in found.values() for each in ports.values() for at in each} == {"127.0.0.1"}
    others = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]
    for port in platform.ports.values():
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        for address in others:
            with pytest.raises((ConnectionError, TimeoutError)):
                socket.create_connection((address, port), timeout=2)


REACH = """\
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print("reached", place)
    except OSError as error:
        print("not", place)
"""


def reached(platform: Platform, service: str, places: list[str]) -> set[str]:
    """The places that a service's container can connect to."""
    said = platform.run(service, "python3", "-c", REACH, *places)
    return {line.removeprefix("reached ") for line in said.splitlines() if line.startswith("reached ")}


def test_networks_are_apart(platform):
    """A service reaches by name what its networks have; of the rest it reaches no address either."""
    ports = {"postgres": 5432, "s3": 8333, "mlflow": 5000, "prefect": 4200, "triton": 8001, "prometheus": 9090}
    allowed = {
        "gateway": {"triton", "prometheus"},
        "worker": {"mlflow", "prefect", "s3", "triton", "prometheus"},
        "mlflow": {"postgres", "s3", "prefect"},
        "prefect": {"postgres", "mlflow"},
    }
    addresses = {
        name: [network["IPAddress"] for network in platform.inspect(name)["NetworkSettings"]["Networks"].values()]
        for name in ports
    }
    for service, others in allowed.items():
        names = [f"{name}:{port}" for name, port in ports.items() if name != service]
        assert reached(platform, service, names) == {f"{name}:{ports[name]}" for name in others}, service
        hidden = [
            f"{address}:{port}"
            for name, port in ports.items()
            if name not in {*others, service}
            for address in addresses[name]
        ]
        assert reached(platform, service, hidden) == set(), service
    for service in ("postgres", "s3", "worker", "triton", "prometheus"):  # no way out of the machine
        routes = platform.run(service, "cat", "/proc/net/route").splitlines()[1:]
        assert routes
        assert "00000000" not in [route.split()[1] for route in routes], service


def test_each_may_do_in_the_store_what_it_has_to(platform):
    """The worker reads photographs and keeps data versions, and MLflow has its own bucket alone."""
    made = 'import boto3; bucket = boto3.resource("s3").Bucket("dvc"); bucket.creation_date or bucket.create()'
    platform.run("worker", "python", "-c", made)
    every = {f"refused {bucket} {what}" for bucket in ("photos", "mlflow", "dvc") for what in CALLS}
    refused = {
        service: set(platform.run(service, "python", "-", stdin=TRY).splitlines()) for service in ("worker", "mlflow")
    }
    assert refused["worker"] == {each for each in every if "mlflow" in each} | {
        "refused photos put_object",
        "refused photos delete_object",
    }
    assert refused["mlflow"] == {each for each in every if "mlflow" not in each}


def test_no_secret_is_in_what_the_engine_keeps_a_command_line_or_a_log(platform):
    """Each secret is a file alone; process lists, definitions of containers and logs have none of them."""
    values = {platform.secrets[name] for name in ("postgres_password", "gateway_token", "grafana_password")}
    values |= {each for pair in platform.keys().values() for each in pair}
    kept = [json.dumps(platform.inspect(service)) for service in SERVICES]
    kept += [platform.podman("logs", platform.container(service)) for service in SERVICES]
    for process in psutil.process_iter():
        try:
            kept.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    commits = ["git", "-c", "safe.directory=*", "log", "--all", "--patch", "--text", "--format=%H %B"]  # of runs, too
    kept.append(
        subprocess.run(commits, cwd=platform.checkout, check=True, capture_output=True).stdout.decode("latin-1")
    )
    assert (
        "refs/"
        in subprocess.run([*commits[:3], "for-each-ref"], cwd=platform.checkout, capture_output=True, text=True).stdout
    )
    assert not [text[:200] for text in kept for value in values if value in text]


def test_no_service_is_root_and_ours_have_no_capabilities(platform):
    """Of the processes that run, as the kernel says; their roots are read-only."""
    for service in SERVICES:
        status = dict(line.split(":\t", 1) for line in platform.run(service, "cat", "/proc/1/status").splitlines())
        assert "0" not in status["Uid"].split(), service
        if service in ("mlflow", "prefect", "worker", "gateway", "triton"):
            assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1"), service
            assert "Read-only" in platform.run(service, "touch", "/etc/x", check=False), service
    assert "Read-only" in platform.run("triton", "touch", "/home/relume/x", check=False)


def test_prometheus_watches_the_gateway_and_triton(platform, image):
    """Both targets are up, all rules are loaded, and a request is counted."""

    def ask(path: str) -> Any:
        return json.loads(platform.run("prometheus", "wget", "-q", "-O", "-", f"http://127.0.0.1:9090/api/v1/{path}"))[
            "data"
        ]

    platform.restore(image)
    wait_until(
        lambda: (
            {t["labels"]["job"]: t["health"] for t in ask("targets")["activeTargets"]}
            == {"gateway": "up", "triton": "up"}
        ),
        seconds=60,
    )
    rules = {rule["name"] for group in ask("rules")["groups"] for rule in group["rules"] if rule["health"] == "ok"}
    stated = yaml.safe_load((INFRA / "monitoring" / "alerts.yml").read_text())
    assert rules == {rule["alert"] for group in stated["groups"] for rule in group["rules"]}
    wait_until(lambda: ask("query?query=sum(relume_answers_total)")["result"], seconds=60)


@pytest.mark.parametrize("service", ["postgres", "s3", "mlflow", "prefect", "triton", "gateway"])
def test_a_service_that_was_killed_comes_back_with_its_state(platform, image, service):
    """Its container is started again, its health check passes, and the same image is restored."""
    before = platform.inspect(service)["State"]["Pid"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: platform.inspect(service)["State"]["Pid"] not in (0, before), seconds=60)
    platform.compose("healthy")
    wait_until(lambda: differ(platform.restore(image), restored_by_package(platform, image)) <= 1, seconds=60)
    assert "champion  denoise-" in platform.run("worker", "relume", "status")


def test_what_was_released_serves_after_down_and_up(platform, image):
    """Volumes stay: the ledger, the registry and the model repository are as they were."""
    before = platform.run("worker", "relume", "ledger", "show")
    platform.compose("down")
    for step in (*STEPS, ("gateway",)):
        platform.up(*step)
    assert platform.run("worker", "relume", "ledger", "show") == before
    platform.run("worker", "relume", "ledger", "verify")
    assert differ(platform.restore(image), restored_by_package(platform, image)) <= 1
