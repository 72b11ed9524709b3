"""infra/kubernetes as a real API server takes it: each object is admitted, and each account may do its work alone."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import kubernetes
import pytest

from tests.flows.runners.cluster import PROGRAMS, api_server

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore:Unverified HTTPS")]

OVERLAYS = Path(__file__).parents[2] / "infra" / "kubernetes" / "overlays"
VERBS = (
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
)
RESOURCES = (
    *(
        ("", name)
        for name in ("pods", "pods/status", "pods/log", "pods/exec", "secrets", "configmaps", "services", "nodes")
    ),
    *(
        ("", name)
        for name in ("serviceaccounts", "serviceaccounts/token", "persistentvolumeclaims", "namespaces", "users")
    ),
    *(("batch", name) for name in ("jobs", "jobs/status", "cronjobs")),
    *(("apps", name) for name in ("deployments", "deployments/scale", "statefulsets", "daemonsets")),
    *(("rbac.authorization.k8s.io", name) for name in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
    ("networking.k8s.io", "networkpolicies"),
)
WORKER = {
    ("batch", "jobs", "create"),
    ("batch", "jobs", "delete"),
    ("batch", "jobs/status", "get"),
    ("", "secrets", "create"),
    ("", "secrets", "delete"),
    ("", "pods", "list"),
    ("", "pods/status", "get"),
    ("", "pods/log", "get"),
}


class Cluster:
    """An API server in which an overlay was applied as the page on running the platform says."""

    def __init__(self, config: Path, overlay: str):
        self.config, self.overlay = config, OVERLAYS / overlay
        self.client = kubernetes.config.new_client_from_config(str(config))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
        """What a command of kubectl says and how it ends."""
        command = ["kubectl", "--kubeconfig", str(self.config), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)

    def apply(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
        """`kubectl apply`; the client checks nothing, since this server does not describe its types to clients."""
        return self.kubectl("apply", "--validate=false", *arguments, stdin=stdin)

    def allowed(self, account: str, namespace: str) -> set[tuple[str, str, str]]:
        """What an account of the namespace `relume` may do in a namespace."""
        api, found = kubernetes.client.AuthorizationV1Api(self.client), set()
        for (group, resource), verb in itertools.product(RESOURCES, VERBS):
            name, _, part = resource.partition("/")
            attributes = {"group": group, "resource": name, "subresource": part, "verb": verb, "namespace": namespace}
            user = f"system:serviceaccount:relume:{account}"
            review = {"spec": {"user": user, "resourceAttributes": attributes}}
            if api.create_subject_access_review(review).status.allowed:
                found.add((group, resource, verb))
        return found


@pytest.fixture(scope="module", params=["one-node", "gpu-cluster"])
def cluster(request, tmp_path_factory):
    """One for each overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    if not (PROGRAMS / "kube-apiserver").is_file():
        pytest.skip("needs an API server: sh infra/kubernetes/setup.sh")
    with api_server(tmp_path_factory.mktemp("cluster")) as config:
        found = Cluster(config, request.param)
        done = found.apply("--kustomize", str(found.overlay))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "created" in done.stdout
        yield found


def test_every_object_is_admitted_and_can_be_applied_again(cluster):
    """What was built is there under its name, with its images and limits; a second time changes no pod's template."""
    done = cluster.apply("--kustomize", str(cluster.overlay))
    assert done.returncode == 0, done.stderr
    assert "created" not in done.stdout
    apps = kubernetes.client.AppsV1Api(cluster.client)
    found = [*apps.list_namespaced_deployment("relume").items, *apps.list_namespaced_stateful_set("relume").items]
    names = {"gateway", "mlflow", "prefect", "triton", "worker"}
    assert {each.metadata.name for each in found} == names | (
        {"postgres", "s3"} if cluster.overlay.name == "one-node" else set()
    )
    for each in found:
        assert each.metadata.generation == 1, each.metadata.name
        (container,) = each.spec.template.spec.containers
        assert container.security_context.read_only_root_filesystem
        assert {"cpu", "memory"} <= container.resources.limits.keys()
    (triton,) = (each for each in found if each.metadata.name == "triton")
    gpu = triton.spec.template.spec.containers[0].resources.limits.get("nvidia.com/gpu")
    assert gpu == ("1" if cluster.overlay.name == "gpu-cluster" else None)


def test_a_wrong_object_is_not_admitted(cluster):
    """The server checks more than types: a selector of another deployment's pods, a port that there is not."""
    deployment = json.loads(
        cluster.kubectl("get", "deployment/gateway", "--namespace", "relume", "--output", "json").stdout
    )
    wrong = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "wrong", "namespace": "relume"},
        "spec": deployment["spec"] | {"selector": {"matchLabels": {"app": "another"}}},
    }
    refused = cluster.apply("--filename", "-", stdin=json.dumps(wrong))
    assert refused.returncode == 1
    assert "`selector` does not match template `labels`" in refused.stderr
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "wrong", "namespace": "relume"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 70000}]}]},
    }
    refused = cluster.apply("--filename", "-", stdin=json.dumps(policy))
    assert refused.returncode == 1
    assert "must be between 1 and 65535" in refused.stderr


def test_the_worker_may_make_its_jobs_and_secrets_and_nothing_else(cluster):
    """By the server's own judgement of every verb on every resource, in its namespace and outside of it."""
    assert cluster.allowed("worker", "relume") == WORKER
    assert cluster.allowed("worker", "default") == set()
    assert cluster.allowed("worker", "") == set()  # cluster-wide


def test_the_other_accounts_may_do_nothing(cluster):
    """Stages, MLflow, Prefect, Triton and the gateway run as `default`, whose token is in no pod of theirs."""
    assert cluster.allowed("default", "relume") == set()
    for name in ("gateway", "mlflow", "prefect", "triton"):
        path = "{.spec.template.spec.serviceAccountName}{.spec.template.spec.automountServiceAccountToken}"
        arguments = ("get", f"deployment/{name}", "--namespace", "relume", "--output", f"jsonpath={path}")
        assert cluster.kubectl(*arguments).stdout == "false", name


def test_the_worker_is_refused_a_secret_that_it_may_make(cluster):
    """By a request as the worker: what it makes for a Job it cannot read back, nor what others keep."""
    worker = ("--as", "system:serviceaccount:relume:worker", "--namespace", "relume")
    made = cluster.kubectl("create", "secret", "generic", "of-a-job", "--from-literal", "key=value", *worker)
    assert made.returncode == 0, made.stderr
    refused = cluster.kubectl("get", "secret", "of-a-job", *worker)
    assert refused.returncode == 1
    assert "Forbidden" in refused.stderr or "forbidden" in refused.stderr
    assert cluster.kubectl("delete", "secret", "of-a-job", *worker).returncode == 0
