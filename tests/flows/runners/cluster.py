"""A Kubernetes API server with the Job controller, and a node whose pods are played by podman; no kubelet.

The node does what the Job's pods of relume need of one: init containers one after the other, volumes of the kinds
emptyDir and secret, limits, users, read-only roots, statuses, logs through the API server. It binds the pods itself.
All share the machine's network, in which each pod is given an address of loopback.
"""

import base64
import contextlib
import datetime
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes
import yaml
from kubernetes.client import ApiException

from tests.flows.toy import wait_until

PODMAN = ["sh", str(Path("infra/containers/podman.sh").resolve())]
PROGRAMS = Path(".relume/kubernetes")
FOLDER, POD = "relume.test.cluster", "relume.test.pod"  # labels of podman's containers


@contextlib.contextmanager
def api_server(folder: Path):
    """Runs etcd, the API server and the controllers on loopback; gives the path of a configuration for clients."""
    etcd, peer, api = _free_ports(3)
    token, config = "a-token-of-this-test", folder / "kubeconfig"
    (folder / "tokens.csv").write_text(f"{token},relume,relume,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", folder / "key.pem", "2048"], check=True, capture_output=True)
    cluster = {"server": f"https://127.0.0.1:{api}", "insecure-skip-tls-verify": True}
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "relume", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "relume"}}],
                "current-context": "test",
            }
        )
    )
    commands = {
        "etcd": [
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        ],
        "kube-apiserver": [
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={api}",
            f"--cert-dir={folder}/certificates",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://test",
            f"--service-account-signing-key-file={folder}/key.pem",
            f"--service-account-key-file={folder}/key.pem",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--kubelet-preferred-address-types=InternalIP",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={config}",
            "--controllers=job,garbagecollector,serviceaccount",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
        ],
    }
    started = []
    try:
        for name, arguments in commands.items():
            with open(folder / f"{name}.log", "wb") as log:
                command = [PROGRAMS.resolve() / name, *arguments]
                started.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True))
            if name == "kube-apiserver":
                wait_until(lambda: _answers(config), seconds=180)
        core = kubernetes.client.CoreV1Api(_client(config))
        wait_until(lambda: _has_account(core), seconds=180)
        yield config
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
            process.wait()


def _client(config: Path):
    return kubernetes.config.new_client_from_config(str(config))


def _answers(config: Path) -> bool:
    with contextlib.suppress(Exception):  # refused, not yet allowed, not yet ready
        return bool(kubernetes.client.CoreV1Api(_client(config)).read_namespace("default"))
    return False


def _has_account(core) -> bool:
    with contextlib.suppress(ApiException):
        return bool(core.read_namespaced_service_account("default", "default"))
    return False


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [held.getsockname()[1] for held in sockets]


class Node:
    """A node of the cluster, whose pods podman plays."""

    def __init__(self, config: Path, folder: Path):
        self.core, self.folder = kubernetes.client.CoreV1Api(_client(config)), folder
        self.name, self._seen, self._over = "podman", {}, threading.Event()
        self.addresses: dict[str, str] = {}
        self._server = _log_server(self, folder)
        port = self._server.server_address[1]
        self.core.create_node(
            {
                "metadata": {"name": self.name},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                },
            }
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """Ends what the node does."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def log(self, pod: str, container: str) -> Path:
        """What a container printed."""
        return self.folder / pod / f"{container}.log"

    def state(self, pod: str, container: str) -> dict | None:
        """The state of a container of a pod, as in its status."""
        statuses = self._seen.get(pod, {})
        return next((one["state"] for kind in statuses.values() for one in kind if one["name"] == container), None)

    def _work(self) -> None:
        while not self._over.wait(0.2):
            for pod in self.core.list_pod_for_all_namespaces().items:
                name = pod.metadata.name
                if pod.metadata.deletion_timestamp:
                    threading.Thread(target=self._end, args=(pod,), daemon=True).start()
                elif not pod.spec.node_name:
                    target = {"target": {"kind": "Node", "name": self.name}, "metadata": {"name": name}}
                    self.core.create_namespaced_pod_binding(name, "default", target, _preload_content=False)
                elif name not in self._seen:
                    self._seen[name] = {}
                    self.addresses[name] = f"127.0.0.{len(self.addresses) % 250 + 2}"
                    threading.Thread(target=self._play, args=(pod,), daemon=True).start()

    def _end(self, pod) -> None:
        """SIGTERM, the pod's seconds, SIGKILL; then it is gone."""
        grace = str(pod.metadata.deletion_grace_period_seconds or 0)
        subprocess.run([*PODMAN, "stop", "--time", grace, *_names(pod.metadata.name)], capture_output=True)
        with contextlib.suppress(ApiException):
            self.core.delete_namespaced_pod(pod.metadata.name, "default", grace_period_seconds=0)

    def _play(self, pod) -> None:
        spec = self.core.api_client.sanitize_for_serialization(pod)["spec"]
        folder = self.folder / pod.metadata.name
        volumes = {volume["name"]: self._volume(folder, volume, spec) for volume in spec["volumes"]}
        phase = "Succeeded"
        for kind, container in [
            *(("initContainerStatuses", one) for one in spec["initContainers"]),
            *(("containerStatuses", one) for one in spec["containers"]),
        ]:
            if code := self._run(pod.metadata.name, kind, container, spec, volumes):
                phase = "Failed" if code > 0 else "Pending"
                break
        if phase != "Pending":
            self._say(pod.metadata.name, phase)
        shutil.rmtree(folder / "volumes", ignore_errors=True)

    def _volume(self, folder: Path, volume: dict, spec: dict) -> Path:
        place, owner = folder / "volumes" / volume["name"], spec["securityContext"]["fsGroup"]
        place.mkdir(parents=True)
        if "secret" in volume:
            secret = self.core.read_namespaced_secret(volume["secret"]["secretName"], "default")
            for name, value in secret.data.items():
                (place / name).write_bytes(base64.b64decode(value))
        os.chown(place, 0, owner)
        place.chmod(0o2775)
        return place

    def _run(self, pod: str, kind: str, container: dict, spec: dict, volumes: dict[str, Path]) -> int:
        """Runs a container to its end; gives its exit code, or -1 for one that cannot start."""
        status = {"name": container["name"], "image": container["image"], "imageID": "", "ready": False}
        status["restartCount"] = 0
        self._seen[pod].setdefault(kind, []).append(status)
        found = subprocess.run(
            [*PODMAN, "image", "inspect", "--format", "{{.Id}}", container["image"]], text=True, capture_output=True
        )
        if found.returncode:
            status["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": "no registry in this test"}}
            self._say(pod, "Pending")
            return -1
        status |= {"imageID": f"sha256:{found.stdout.strip()}", "state": {"running": {"startedAt": _now()}}}
        log = self.log(pod, container["name"])
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [
                    *PODMAN,
                    "run",
                    "--name",
                    f"{pod}.{container['name']}",
                    *self._arguments(pod, container, spec, volumes),
                ],
                cwd=self.folder,  # conmon leaves a file called `oom` where it works
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._say(pod, "Running")
            code = process.wait()
        subprocess.run([*PODMAN, "rm", "--force", f"{pod}.{container['name']}"], capture_output=True)
        status["state"] = {
            "terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": _now()}
        }
        self._say(pod, "Running")
        return code

    def _arguments(self, pod: str, container: dict, spec: dict, volumes: dict[str, Path]) -> list[str]:
        safety, limits = container["securityContext"], container["resources"]["limits"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        user = spec["securityContext"]
        arguments = [
            f"--label={POD}={pod}",
            f"--label={FOLDER}={self.folder}",
            "--pull=never",
            "--network=host",
            f"--user={user['runAsUser']}:{user['runAsGroup']}",
        ]
        arguments += [
            f"--memory={limits['memory'].removesuffix('i')}",
            f"--memory-swap={limits['memory'].removesuffix('i')}",
        ]
        arguments += [f"--cpus={limits['cpu']}"] if float(limits["cpu"]) <= (os.cpu_count() or 1) else []
        arguments += ["--read-only", "--read-only-tmpfs=false"] if safety["readOnlyRootFilesystem"] else []
        arguments += [f"--cap-drop={name}" for name in safety["capabilities"]["drop"]]
        arguments += [] if safety["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
        for mount in container["volumeMounts"]:
            if mount["mountPath"].startswith("/var/run/secrets"):
                raise AssertionError("a token of the cluster is mounted")
            place = volumes[mount["name"]] / mount.get("subPath", "")
            arguments.append(f"--volume={place}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}")
        for variable in container["env"]:
            value, source = variable.get("value"), variable.get("valueFrom", {})
            if "fieldRef" in source:
                assert source["fieldRef"]["fieldPath"] == "status.podIP"
                value = self.addresses[pod]
            elif value is None:
                key = source["secretKeyRef"]
                secret = self.core.read_namespaced_secret(key["name"], "default")
                value = base64.b64decode(secret.data[key["key"]]).decode()
            arguments.append(f"--env={variable['name']}={value}")
        arguments += [f"--workdir={container['workingDir']}"] if "workingDir" in container else []
        entry, *rest = container["command"]
        return [*arguments, f"--entrypoint={entry}", container["image"], *rest]

    def _say(self, pod: str, phase: str) -> None:
        """Writes the pod's status; one that is gone has none."""
        with contextlib.suppress(ApiException):
            status = {"phase": phase, "startTime": _now(), "podIP": self.addresses[pod], **self._seen[pod]}
            self.core.patch_namespaced_pod_status(pod, "default", {"status": status})


def _names(pod: str) -> list[str]:
    found = [*PODMAN, "ps", "--quiet", "--filter", f"label={POD}={pod}"]
    return subprocess.run(found, capture_output=True, text=True).stdout.split()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _log_server(node: Node, folder: Path) -> http.server.ThreadingHTTPServer:
    """Answers the API server's requests for logs, as a kubelet does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, kind, _, pod, container = urlsplit(self.path).path.split("/")
            assert kind == "containerLogs"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            with open(node.log(pod, container), "rb") as log:
                while True:
                    ended = "running" not in (node.state(pod, container) or {})
                    self.wfile.write(log.read())
                    self.wfile.flush()
                    if ended:
                        return
                    time.sleep(0.1)

        def log_message(self, *_) -> None:
            pass

    certificate = folder / "node.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=podman",
            "-keyout",
            certificate,
            "-out",
            folder / "node.crt",
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "node.crt", certificate)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server
