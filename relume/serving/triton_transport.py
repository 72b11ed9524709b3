"""The calls to a Triton server that restoring needs, over gRPC or HTTP, with relume's errors.

Both transports may be used from several threads. The HTTP one builds and reads messages with tritonclient and carries
them with urllib3, because tritonclient's own HTTP client is bound to the thread that made it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from relume.errors import ConfigError, RelumeError, ServerRefusedError, ServerUnreachableError
from relume.serving.shared_tiles import Slot

LIVE_TIMEOUT = 2.0

# A tile may be larger than gRPC's 4 MB; a proxy from the environment would be asked for loopback addresses as well.
CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)

KEY_HEADER = "relume-control-key"
"""The header by which a client shows the control key to a server that restricts its control to those who have it."""


def grpc_key(key: str | None) -> dict[str, str]:
    """The headers of a gRPC request that shows the control key; none without one."""
    return {f"triton-grpc-protocol-{KEY_HEADER}": key} if key else {}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for of tiles.

    Attributes:
        output: The output of the model.
        shape: Of what comes back; only where it comes through shared memory.
        level: In [0, 255], where the model takes one.
        seeds: float32 (N,), of the masks of each tile, where the model takes them.
    """

    output: str = "restored"
    shape: tuple[int, ...] = ()
    level: float | None = None
    seeds: np.ndarray | None = None

    def numbers(self, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """The further inputs by name, float32 (N, 1)."""
        if self.level is not None:
            yield "level", np.full((count, 1), self.level, np.float32)
        if self.seeds is not None:
            yield "seed", self.seeds[:, np.newaxis]


class QueueFullError(ServerRefusedError):
    """The model's queue is full; the request can be sent again a little later."""


class RegionUnknownError(ServerRefusedError):
    """The server knows nothing of a region of shared memory, since it was started after the region was registered."""


class RestrictedError(ServerRefusedError):
    """The server does this only for those who show its control key."""


class Transport(Protocol):
    """What a client asks of a Triton server. Every call raises ServerUnreachableError or ServerRefusedError."""

    host: str

    def server(self) -> str:
        """The name that the server was started with."""

    def model_config(self, model: str) -> dict[str, Any]:
        """The model's configuration as Triton gives it, parsed."""

    def register(self, region: str, key: str, size: int) -> None:
        """Tells the server of a region of system shared memory."""

    def unregister(self, region: str) -> None:
        """Makes the server forget a region."""

    def infer(self, model: str, tiles_NCHW: np.ndarray, asked: Asked, slot: Slot | None = None) -> np.ndarray:
        """What a model makes of tiles, (N, 3, T, T) of its type.

        The tiles go through shared memory when a slot is given; numbers are too small to.
        """

    def close(self) -> None:
        """Closes the connections."""


def connect(url: str, *, timeout: float, key: str | None = None) -> Transport:
    """Makes a transport for `HOST:PORT` or `grpc://HOST:PORT` (gRPC) or `http://HOST:PORT`; nothing is sent yet.

    Args:
        url: The server's address.
        timeout: Seconds that one request may take.
        key: The server's control key, shown when shared memory is registered, and over HTTP when tiles are sent; None
            without one.

    Raises:
        ConfigError: The address is none of these.
    """
    parts = urlsplit(url if "://" in url else f"grpc://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("grpc", "http") or not host or not port:
        raise ConfigError(
            "The address is not one of a Triton server",
            where=url,
            why="it has to be grpc://HOST:PORT or http://HOST:PORT",
            next_step="see the address of the local server with `relume status`",
        )
    return (GrpcTransport if parts.scheme == "grpc" else HttpTransport)(host, port, timeout=timeout, key=key)


def _unreachable(address: str, why: object) -> ServerUnreachableError:
    return ServerUnreachableError(
        "The Triton server does not answer",
        where=address,
        why=why,
        next_step="start the local server with `relume serve` or `relume up`; `relume status` shows it",
    )


def _refused(address: str, why: str) -> RelumeError:
    kind: type[RelumeError] = ServerRefusedError
    next_step = "relume status"
    if "maximum queue size" in why:
        kind = QueueFullError
    elif "Unable to find shared memory region" in why:
        kind = RegionUnknownError
    elif "is restricted" in why:
        kind = RestrictedError
        next_step = "restore by its gRPC address, which wants no key; see `relume status`"
    return kind("The Triton server refused a request", where=address, why=why, next_step=next_step)


class GrpcTransport:
    """A Triton server over gRPC."""

    def __init__(self, host: str, port: int, *, timeout: float, key: str | None = None):
        import tritonclient.grpc as triton

        self.host = host
        self._address, self._timeout, self._triton = f"{host}:{port}", timeout, triton
        self._headers = grpc_key(key)
        self._client = triton.InferenceServerClient(self._address, channel_args=CHANNEL)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client, method)(*args, client_timeout=self._timeout, **kwargs)
        except InferenceServerException as error:
            status, why = error.status() or "", error.message()
            if "DEADLINE_EXCEEDED" in status or not self._live():
                raise _unreachable(f"grpc://{self._address}", why) from None
            raise _refused(f"grpc://{self._address}", why) from None

    def _live(self) -> bool:
        from tritonclient.utils import InferenceServerException

        try:
            return self._client.is_server_live(client_timeout=LIVE_TIMEOUT)
        except InferenceServerException:
            return False

    def server(self) -> str:
        return self._call("get_server_metadata").name

    def model_config(self, model: str) -> dict[str, Any]:
        return self._call("get_model_config", model, as_json=True)["config"]

    def register(self, region: str, key: str, size: int) -> None:
        self._call("register_system_shared_memory", region, key, size, headers=self._headers)

    def unregister(self, region: str) -> None:
        self._call("unregister_system_shared_memory", region, headers=self._headers)

    def infer(self, model: str, tiles_NCHW: np.ndarray, asked: Asked, slot: Slot | None = None) -> np.ndarray:
        inputs, outputs = _request(self._triton, tiles_NCHW, asked, slot)
        result = self._call("infer", model, inputs, outputs=outputs)
        return result.as_numpy(asked.output) if slot is None else slot.get(asked.shape, tiles_NCHW.dtype)

    def close(self) -> None:
        self._client.close()


class HttpTransport:
    """A Triton server over HTTP."""

    def __init__(self, host: str, port: int, *, timeout: float, key: str | None = None):
        import tritonclient.http as triton
        import urllib3

        self.host = host
        self._address, self._triton = f"http://{host}:{port}", triton
        self._headers = {KEY_HEADER: key} if key else {}
        self._pool = urllib3.HTTPConnectionPool(host, port, timeout=timeout, maxsize=8, retries=False)

    def _call(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        from urllib3.exceptions import HTTPError

        try:
            response = self._pool.request(method, f"/v2{path}", body=body, headers=headers)
        except HTTPError as error:
            raise _unreachable(self._address, error) from None
        if response.status != 200:
            raise _refused(self._address, _error_text(response.data))
        return response

    def server(self) -> str:
        return self._call("GET", "").json()["name"]

    def model_config(self, model: str) -> dict[str, Any]:
        return self._call("GET", f"/models/{model}/config").json()

    def register(self, region: str, key: str, size: int) -> None:
        body = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
        self._call("POST", f"/systemsharedmemory/region/{region}/register", body, self._headers)

    def unregister(self, region: str) -> None:
        self._call("POST", f"/systemsharedmemory/region/{region}/unregister", headers=self._headers)

    def infer(self, model: str, tiles_NCHW: np.ndarray, asked: Asked, slot: Slot | None = None) -> np.ndarray:
        inputs, outputs = _request(self._triton, tiles_NCHW, asked, slot)
        client = self._triton.InferenceServerClient
        body, json_size = client.generate_request_body(inputs, outputs=outputs)
        headers = {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}
        response = self._call("POST", f"/models/{model}/infer", body, self._headers | headers)
        length = response.headers.get("Inference-Header-Content-Length")
        result = client.parse_response_body(response.data, header_length=int(length) if length else None)
        return result.as_numpy(asked.output) if slot is None else slot.get(asked.shape, tiles_NCHW.dtype)

    def close(self) -> None:
        self._pool.close()


def _request(triton: Any, tiles_NCHW: np.ndarray, asked: Asked, slot: Slot | None) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs in tritonclient's words: the tiles, in a slot if there is one, and numbers for each tile."""
    from tritonclient.utils import np_to_triton_dtype

    image = triton.InferInput("image", tiles_NCHW.shape, np_to_triton_dtype(tiles_NCHW.dtype))
    answer = triton.InferRequestedOutput(asked.output)
    if slot is None:
        image.set_data_from_numpy(tiles_NCHW)
    else:
        slot.put(image, answer, tiles_NCHW, asked.shape)
    inputs = [image]
    for name, values in asked.numbers(len(tiles_NCHW)):
        inputs.append(triton.InferInput(name, values.shape, "FP32"))
        inputs[-1].set_data_from_numpy(values)
    return inputs, [answer]


def _error_text(body: bytes) -> str:
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:500]
