"""infra/compose.yaml, infra/kubernetes and Grafana's files, against their schemas and their own rules."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from kubernetes.client import models

INFRA = Path(__file__).parents[1] / "infra"
OVERLAYS = ("one-node", "gpu-cluster")
PUBLISHED = {"gateway", "grafana", "mlflow", "prefect"}


def substituted(text: str) -> str:
    """The text with the default of each variable, as Compose reads it where none is set."""
    return re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file as plain values; the extension that services share is merged by YAML."""
    return yaml.safe_load(substituted((INFRA / "compose.yaml").read_text()))


def test_the_compose_file_is_one_of_the_specification(compose):
    """As the parser of the Compose Specification reads it, which refuses unknown keys and wrong values."""
    found = PyCompose.from_yaml(yaml.safe_dump(compose))
    assert len(found.services) == len(compose["services"]) == 9
    with pytest.raises(ValueError, match="imagee"):
        PyCompose.from_yaml(yaml.safe_dump(compose | {"services": {"a": {"image": "a", "imagee": "b"}}}))


def test_only_the_gateway_and_the_user_interfaces_are_published_and_on_loopback(compose):
    """Whoever reaches the machine's other addresses finds none of it."""
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports.keys() == PUBLISHED
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)


def test_networks_are_apart(compose):
    """What is published is on `edge` or `pages`, all else on neither; databases and store see those who use them."""
    on = {
        network: {name for name, service in compose["services"].items() if network in service["networks"]}
        for network in compose["networks"]
    }
    assert on["edge"] == {"gateway"}
    assert on["pages"] == PUBLISHED - {"gateway"}
    assert on["databases"] == {"postgres", "mlflow", "prefect"}
    assert on["objects"] == {"s3", "mlflow", "worker"}
    assert on["serving"] == {"triton", "worker", "gateway", "prometheus"}
    assert {name for name, network in compose["networks"].items() if not network.get("internal")} == {"edge", "pages"}


def test_every_service_has_a_health_check(compose):
    """`depends_on` waits for it."""
    assert all("healthcheck" in service for service in compose["services"].values())


def test_secrets_are_files_alone(compose, tmp_path):
    """Those that the script makes; no value is in the compose file, an environment or a command."""
    subprocess.run(["sh", INFRA / "secrets.sh", tmp_path / "secrets"], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == {Path(secret["file"]).name for secret in compose["secrets"].values()} | {"s3_admin"}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert used == compose["secrets"].keys()
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("password|secret|token|key|credentials", name, re.IGNORECASE)
            assert not secret or value.startswith("/run/secrets/")
    assert len({made["postgres_password"], made["gateway_token"], made["grafana_password"]}) == 3
    assert all(len(made[name]) == 48 for name in ("postgres_password", "gateway_token", "grafana_password"))
    subprocess.run(["sh", INFRA / "secrets.sh", tmp_path / "secrets"], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    ignored = subprocess.run(["git", "check-ignore", "infra/secrets/x"], cwd=INFRA.parent, capture_output=True)
    assert ignored.returncode in (0, 128)  # 128: no repository


def test_files_that_the_compose_file_names_are_there(compose):
    """Configurations, read by their owners' formats."""
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    files = [volume.partition(":")[0] for volume in mounted if volume.startswith("./")]
    assert len(files) == 6
    assert all((INFRA / name).is_file() for name in files)
    prometheus = yaml.safe_load((INFRA / "monitoring" / "prometheus.yml").read_text())
    targets = {
        target.partition(":")[0]
        for job in prometheus["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    assert targets <= compose["services"].keys()


def kustomized(overlay: str) -> list[dict[str, Any]]:
    """What kubectl makes of an overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which builds the overlays, is not installed")
    command = ["kubectl", "kustomize", str(INFRA / "kubernetes" / "overlays" / overlay)]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return list(yaml.safe_load_all(done.stdout))


def check(value: Any, kind: str, at: str) -> None:
    """Refuses keys and kinds of values that a type of Kubernetes' OpenAPI description does not have.

    The client's models are generated from that description; what they lack in checks is done here.
    """
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), at
        for number, each in enumerate(value):
            check(each, found[1], f"{at}[{number}]")
    elif found := re.fullmatch(r"dict\[str, (.*)\]", kind):
        for key, each in value.items():
            assert isinstance(key, str), at
            check(each, found[1], f"{at}.{key}")
    elif (model := getattr(models, kind, None)) is not None:
        names = {name: attribute for attribute, name in model.attribute_map.items()}
        assert not value.keys() - names.keys(), f"{at}: {value.keys() - names.keys()}"
        model(**{names[key]: each for key, each in value.items()})  # what is required is there
        for key, each in value.items():
            check(each, model.openapi_types[names[key]], f"{at}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{at}: {value!r} is no {kind}"
    else:
        assert kind in ("object", "datetime"), f"{at}: {kind}"  # a port or a quantity: a number or a text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_are_of_kubernetes_types(overlay):
    """Every key and value, by the types of the client for Kubernetes, generated from its OpenAPI description."""
    for manifest in kustomized(overlay):
        group, _, version = manifest["apiVersion"].rpartition("/")
        kind = {"Namespace": "V1Namespace"}.get(manifest["kind"], f"{version.capitalize()}{manifest['kind']}")
        check(manifest, kind, f"{manifest['kind']} {manifest['metadata']['name']}")
        assert group in ("", "apps", "rbac.authorization.k8s.io", "networking.k8s.io")
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "relume"
    with pytest.raises(AssertionError, match="replicass"):
        check({"spec": {"replicass": 1, "selector": {}, "template": {}}}, "V1Deployment", "")


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pods' specifications by name."""
    kinds = ("Deployment", "StatefulSet")
    found = [manifest for manifest in kustomized(overlay) if manifest["kind"] in kinds]
    return {manifest["metadata"]["name"]: manifest["spec"]["template"] for manifest in found}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted(overlay):
    """As the namespace enforces it: no root, no capabilities, a read-only root; requests and limits; probes."""
    for name, template in pods(overlay).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert name == "worker" or spec["automountServiceAccountToken"] is False, name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for amount in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][amount].keys(), name
            assert container["name"] == "bucket" or "livenessProbe" in container, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_by_reference_and_serving_reads_alone(overlay):
    """No Secret is in the manifests; Triton's home is read-only; the gateway has no home of releases at all."""
    assert not [manifest for manifest in kustomized(overlay) if manifest["kind"] == "Secret"]
    found = pods(overlay)
    for template in found.values():
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                secret = re.search("DATABASE_CONNECTION|BACKEND_STORE|SECRET|ACCESS_KEY", variable["name"])
                assert bool(secret) == ("valueFrom" in variable) or variable["name"].startswith("AWS_ENDPOINT")
    (home,) = (mount for mount in found["triton"]["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "home")
    assert home["readOnly"]
    assert "home" not in [volume["name"] for volume in found["gateway"]["spec"]["volumes"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_has_its_network_policy(overlay):
    """Nothing is reached by default, and each pod is named by a rule of who may reach it or what it may reach."""
    policies = {m["metadata"]["name"]: m["spec"] for m in kustomized(overlay) if m["kind"] == "NetworkPolicy"}
    assert policies["nothing-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    text = yaml.safe_dump([spec["podSelector"] for spec in policies.values()])
    assert all(re.search(rf"\b{name}\b", text) for name in pods(overlay))


def test_the_worker_may_do_what_the_runner_calls_and_no_more():
    """Its role is that of the calls in flows/runners/kubernetes.py."""
    (role,) = (manifest for manifest in kustomized("gpu-cluster") if manifest["kind"] == "Role")
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    text = (INFRA.parent / "flows" / "runners" / "kubernetes.py").read_text()
    verbs = {"create": "create", "delete": "delete", "list": "list", "read": "get"}
    called = {
        (
            re.sub(r"^(job|pod|secret)(?:_(\w+))?$", lambda m: f"{m[1]}s" + (f"/{m[2]}" if m[2] else ""), what),
            verbs[verb],
        )
        for verb, what in re.findall(r"\b(create|delete|list|read)_namespaced_(\w+)", text)
    }
    assert allowed == called


def test_grafana_gets_its_datasource_and_dashboard():
    """As its provisioning wants them; the dashboard lies where the provider looks."""
    source = yaml.safe_load((INFRA / "monitoring" / "grafana" / "datasource.yaml").read_text())
    provider = yaml.safe_load((INFRA / "monitoring" / "grafana" / "dashboards.yaml").read_text())
    assert source["apiVersion"] == provider["apiVersion"] == 1
    assert {"name", "type", "access", "url"} <= source["datasources"][0].keys()
    text = (INFRA / "compose.yaml").read_text()
    assert f"{provider['providers'][0]['options']['path']}/relume.json" in text
