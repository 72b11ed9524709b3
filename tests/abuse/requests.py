"""Hostile requests to a home's server: each is refused, and an ordinary client gets its exact images meanwhile.

Refused is a status of 4xx, an error of gRPC, an end of the connection, or the status 500 with which Triton names what
it could not parse. Where no refusal is due, as to a slow sender, ordinary clients are served meanwhile. The server must
not end, hang or forget what it serves.

Tensors are sent with the key, without which HTTP does not read them; all others come from who does not have it.
"""

import base64
import contextlib
import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from flows.embedded_triton import EmbeddedTriton, TritonServer
from relume.serving.levels import LevelRange
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.triton_control import TritonControl
from relume.serving.triton_transport import KEY_HEADER
from tests.abuse.rows import Row, Setting, watched
from tests.abuse.served_home import own_home, restored, strays
from tests.real.clients import Clients
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

FAMILY = "requests"
SECONDS = 40.0  # after which a request counts as hanging
WAIT = 15.0  # of a connection for an answer
IMAGE = np.random.default_rng(4).integers(0, 256, (60, 50, 3), np.uint8)
TILE = (1, 3, 32, 32)
SHAPE = list(TILE)

Answer = tuple[int, str]
"""A status of HTTP, 0 where the connection was ended, or -1 for an error of gRPC; and what the server said."""
Request = Callable[[TritonServer], Answer]


def attack(setting: Setting) -> Iterator[Row]:
    """Sends the requests of each kind; a row for each."""
    with own_home(setting.folder) as (_, home):
        server = EmbeddedTriton(home).start()
        _serve(server, setting.folder)
        pid = EmbeddedTriton(home).status().pid
        answers = {"denoise": convolve(IMAGE, BLUR)}
        with Clients([server.grpc, server.http], IMAGE, answers, key=server.key, pause=0.05) as clients:
            for kind, requests in _kinds(thorough=setting.thorough).items():
                row = Row(family=FAMILY, kind=kind)
                chosen = requests if setting.thorough else setting.random(kind).sample(list(requests), 2)
                for name in chosen:
                    _send(row, name, partial(requests[name], server))
                    row.wrong += [f"{name}: {harm}" for harm in _harm(clients)]
                    if EmbeddedTriton(home).status().pid != pid:
                        row.wrong.append(f"{name} ended the server")
                        yield row
                        return
                if not np.array_equal(restored(server, IMAGE), answers["denoise"]):
                    row.wrong.append("a client without the key does not get its image")
                row.wrong += [f"a process is left: {each}" for each in strays(home)]
                yield row


def _harm(clients: Clients) -> list[str]:
    """What clients did not get since this was asked before."""
    clients.wait_for(2)
    harm = [f"a client failed: {error}" for error in clients.errors[:1]]
    if {*clients.seen} != {"denoise"}:
        harm.append(f"clients got {sorted({*clients.seen})}")
    clients.errors.clear()
    clients.seen.clear()
    return harm


def _serve(server: TritonServer, folder: Path) -> None:
    """Serves `denoise` and, by its release's name, an adjustable model."""
    levels = LevelRange(kind="sigma", lowest=0, highest=50, default=25)
    with TritonControl(server.grpc, key=server.key) as control:
        for name, options in {"denoise-blur": {}, "adjustable-blur": {"levels": levels}}.items():
            publish_release(write_tiny_model(folder / name, **options), server.repository, name)
            control.load_release(name)
        control.switch_product(server.repository, "denoise", Route(champion="denoise-blur"))


def _send(row: Row, name: str, request: Callable[[], Answer]) -> None:
    row.tried += 1
    ended = watched(request, seconds=SECONDS)
    if ended.failure:
        row.wrong.append(f"{name}: {ended.failure}")
    elif ended.code == 200:
        if ended.output == "harmless":
            row.survived += 1
        else:
            row.wrong.append(f"{name}: it was answered: {ended.output[:200]}")
    elif ended.code in (-1, 0) or 400 <= (ended.code or 0) < 500 or (ended.code == 500 and "parse" in ended.output):
        row.refused += 1
    else:
        row.wrong.append(f"{name}: {ended.code} {ended.output[:200]}")


def _kinds(*, thorough: bool) -> dict[str, dict[str, Request]]:
    return {
        "control over HTTP without the key": _http_control(),
        "control over gRPC without the key": _grpc_control(),
        "names and paths": _names(),
        "tensors over HTTP": _tensors(),
        "tensors over gRPC": _grpc_tensors(),
        "NaN, infinite and huge numbers": _numbers(),
        "bodies that lie about their length": _bodies(thorough=thorough),
        "slow senders and many connections": _connections(count=400 if thorough else 60),
    }


def http(
    server: TritonServer, path: str, body: bytes | None = b"{}", headers: Mapping[str, str] | None = None
) -> Answer:
    """The answer to a request over HTTP, a GET where there is no body."""
    request = urllib.request.Request(f"{server.http}{path}", body, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (urllib.error.URLError, ConnectionError) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise
        return 0, str(error)


def raw(server: TritonServer, *parts: bytes, pause: float = 0.0) -> Answer:
    """The answer to bytes that are sent as they are, with pauses between the parts."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=WAIT) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError as error:
            return 0, str(error)
    return (int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0), answer.decode(errors="replace")


def _http_control() -> dict[str, Request]:
    code = base64.b64encode(b"import os; os._exit(1)").decode()
    evil = json.dumps({"parameters": {"config": '{"backend": "python"}', "file:1/model.py": code}}).encode()
    region = json.dumps({"key": "/x", "offset": 0, "byte_size": 2**62}).encode()
    posts = {
        "unload": ("repository/models/denoise/unload", b"{}"),
        "unload of dependents": (
            "repository/models/denoise/unload",
            b'{"parameters": {"unload_dependents": true}}',
        ),
        "load": ("repository/models/denoise-blur/load", b"{}"),
        "load with code": ("repository/models/evil/load", evil),
        "index": ("repository/index", b"{}"),
        "a system region": ("systemsharedmemory/region/mine/register", region),
        "a system region of another program": (
            "systemsharedmemory/region/mine/register",
            json.dumps({"key": "/../etc/passwd", "offset": 0, "byte_size": 64}).encode(),
        ),
        "forgetting all regions": ("systemsharedmemory/unregister", b"{}"),
        "a CUDA region": (
            "cudasharedmemory/region/mine/register",
            b'{"raw_handle": {"b64": "AA=="}, "device_id": 0, "byte_size": 1}',
        ),
        "a trace file": ("trace/setting", b'{"trace_file": "/tmp/x", "trace_level": ["TIMESTAMPS"]}'),
        "a log file": ("logging", b'{"log_file": "/tmp/x"}'),
    }
    requests: dict[str, Request] = {}
    for name, (path, body) in posts.items():
        requests[name] = partial(_restricted, path=f"/v2/{path}", body=body, headers={})
    unload = "/v2/repository/models/denoise/unload"
    for name, headers in {
        "from a foreign page": {"Content-Type": "text/plain", "Origin": "http://evil.test"},
        "from a form": {"Content-Type": "application/x-www-form-urlencoded", "Origin": "null"},
        "with another key": {"relume-control-key": "0" * 64},
        "with an empty key": {"relume-control-key": ""},
        "with a key of 60 kB": {"relume-control-key": "0" * 60_000},
        "for another host": {"Host": "evil.test"},
    }.items():
        requests[f"unload {name}"] = partial(_restricted, path=unload, body=b"{}", headers=headers)
    for name, path in {
        "doubled slashes": "/v2//repository//models/denoise/unload",
        "a parent": "/v2/models/../repository/models/denoise/unload",
        "an escaped path": "/v2/%72epository/models/denoise/unload",
        "a query": "/v2/repository/models/denoise/unload?x=1",
        "capitals": "/V2/REPOSITORY/models/denoise/unload",
    }.items():
        requests[f"unload by {name}"] = partial(http, path=path, body=b"{}")
    return requests


def _restricted(server: TritonServer, *, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    return http(server, path, body, headers)


def _grpc(server: TritonServer, call: Callable[..., object]) -> Answer:
    """The answer to what a caller does with Triton's own client."""
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
        try:
            return 200, str(call(client, triton))
        except InferenceServerException as error:
            if "DEADLINE_EXCEEDED" in (error.status() or ""):
                raise TimeoutError(str(error)) from None
            return -1, str(error)


def _grpc_control() -> dict[str, Request]:
    calls: dict[str, Callable[..., object]] = {
        "unload": lambda client, _: client.unload_model("denoise", client_timeout=WAIT),
        "load": lambda client, _: client.load_model("denoise-blur", client_timeout=WAIT),
        "load with code": lambda client, _: client.load_model(
            "evil", config='{"backend": "python"}', files={"file:1/model.py": b"x"}, client_timeout=WAIT
        ),
        "index": lambda client, _: client.get_model_repository_index(client_timeout=WAIT),
        "a region": lambda client, _: client.register_system_shared_memory("m", "/m", 2**40, client_timeout=WAIT),
        "forgetting all regions": lambda client, _: client.unregister_system_shared_memory(client_timeout=WAIT),
        "listing regions": lambda client, _: client.get_system_shared_memory_status(client_timeout=WAIT),
        "a CUDA region": lambda client, _: client.register_cuda_shared_memory("m", b"AA==", 0, 1, client_timeout=WAIT),
        "a log file": lambda client, _: client.update_log_settings({"log_file": "/tmp/x"}, client_timeout=WAIT),
        "a trace": lambda client, _: client.update_trace_settings(None, {"trace_rate": "1"}, client_timeout=WAIT),
        "unload with another key": lambda client, _: client.unload_model(
            "denoise", headers={"triton-grpc-protocol-relume-control-key": "0" * 64}, client_timeout=WAIT
        ),
        "unload with two keys": lambda client, _: client.unload_model(
            "denoise", headers={"relume-control-key": "0" * 64}, client_timeout=WAIT
        ),
    }
    return {name: partial(_grpc, call=call) for name, call in calls.items()}


def _names() -> dict[str, Request]:
    bad = ("../denoise", "..%2f..%2fetc%2fpasswd", "%00", "denoise%00x", "denoise/versions/-1", "denoise/versions/999")
    bad += ("denoise/versions/99999999999999999999", "x" * 7000, "%ff%fe", "denoise%0d%0aX-Evil:%201", "", "denoise;ls")
    requests: dict[str, Request] = {
        f"config of {name[:30]!r}": partial(http, path=f"/v2/models/{name}/config", body=None) for name in bad
    }
    for name in ("../denoise", "", "\u202edenoise", "x" * 100_000, "denoise\n"):
        requests[f"gRPC config of {name[:30]!r}"] = partial(
            _grpc, call=lambda client, _, name=name: client.get_model_config(name, client_timeout=WAIT)
        )
    return requests


def _infer(
    server: TritonServer, *, model: str = "denoise", raw_values: bytes | None = None, **fields: object
) -> Answer:
    """An inference over HTTP with JSON values, of which some are replaced."""
    request = {"name": "image", "shape": SHAPE, "datatype": "UINT8", "data": [0] * (3 * 32 * 32)} | fields
    top = {"inputs": [request], "outputs": [{"name": "restored"}]}
    headers = {KEY_HEADER: str(server.key)}
    body = json.dumps(top).encode()
    if raw_values is not None:
        request.pop("data")
        request.setdefault("parameters", {"binary_data_size": len(raw_values)})
        body = json.dumps(top).encode()
        headers["Inference-Header-Content-Length"] = str(len(body))
        body += raw_values
    return http(server, f"/v2/models/{model}/infer", body, headers)


def _tensors() -> dict[str, Request]:
    count, whole = 3 * 32 * 32, bytes(3 * 32 * 32)
    return {
        "a value too few": partial(_infer, data=[0] * (count - 1)),
        "a value too many": partial(_infer, data=[0] * (count + 1)),
        "no values": partial(_infer, data=[]),
        "texts as values": partial(_infer, data=["x"] * count),
        "values of 10^30": partial(_infer, data=[10**30] * count),
        "negative values": partial(_infer, data=[-1] * count),
        "another tile": partial(_infer, shape=[1, 3, 48, 48], data=[0] * (3 * 48 * 48)),
        "one channel": partial(_infer, shape=[1, 1, 32, 32], data=[0] * (32 * 32)),
        "a batch beyond the maximum": partial(_infer, shape=[9, 3, 32, 32], data=[0] * (9 * count)),
        "a batch of none": partial(_infer, shape=[0, 3, 32, 32], data=[]),
        "a negative batch": partial(_infer, shape=[-1, 3, 32, 32]),
        "a batch of 2^62": partial(_infer, shape=[2**62, 3, 32, 32]),
        "a shape whose size is 0 modulo 2^64": partial(_infer, shape=[2**31, 2**31, 4, 1], data=[]),
        "a shape of a thousand sides": partial(_infer, shape=[1] * 1000),
        "no shape": partial(_infer, shape=[]),
        "a text as shape": partial(_infer, shape="1,3,32,32"),
        "FP32": partial(_infer, datatype="FP32"),
        "INT64": partial(_infer, datatype="INT64"),
        "BYTES": partial(_infer, datatype="BYTES", data=["x"] * count),
        "an unknown type": partial(_infer, datatype="x" * 10_000),
        "another input": partial(_infer, name="picture"),
        "a region that is not there": partial(
            _infer, parameters={"shared_memory_region": "mine", "shared_memory_byte_size": count}
        ),
        "bytes too few": partial(_infer, raw_values=whole[:-1]),
        "bytes too many": partial(_infer, raw_values=whole + b"x"),
        "bytes that count as more": partial(_infer, raw_values=whole, parameters={"binary_data_size": 2**40}),
        "bytes that count as fewer than none": partial(_infer, raw_values=whole, parameters={"binary_data_size": -1}),
        "bytes of the type BYTES": partial(
            _infer, raw_values=struct.pack("<I", 2**32 - 1) + whole, datatype="BYTES", shape=[1]
        ),
    }


def _grpc_tensors() -> dict[str, Request]:
    def send(
        client: object,
        triton: object,
        *,
        shape: list[int],
        datatype: str = "UINT8",
        content: bytes,
        name: str = "image",
    ) -> object:
        image = triton.InferInput(name, shape, datatype)  # type: ignore[attr-defined]
        image._raw_content = content  # whatever its length
        result = client.infer("denoise", [image], client_timeout=WAIT)  # type: ignore[attr-defined]
        # Triton counts a batch modulo 2^32, and takes what has the bytes of one black tile for that.
        return "harmless" if np.array_equal(result.as_numpy("restored").ravel(), np.zeros(count, np.uint8)) else result

    count = 3 * 32 * 32
    cases: dict[str, dict[str, object]] = {
        "a byte too few": {"shape": SHAPE, "content": bytes(count - 1)},
        "a byte too many": {"shape": SHAPE, "content": bytes(count + 1)},
        "no bytes": {"shape": SHAPE, "content": b""},
        "another tile": {"shape": [1, 3, 48, 48], "content": bytes(3 * 48 * 48)},
        "a batch beyond the maximum": {"shape": [9, 3, 32, 32], "content": bytes(9 * count)},
        "a negative batch": {"shape": [-1, 3, 32, 32], "content": bytes(count)},
        "a batch of 2^62": {"shape": [2**62, 3, 32, 32], "content": bytes(count)},
        "NaN as FP32": {"shape": SHAPE, "datatype": "FP32", "content": np.full(TILE, np.nan, np.float32).tobytes()},
        "another input": {"shape": SHAPE, "content": bytes(count), "name": "picture"},
        "32 MB": {"shape": [1, 3, 3300, 3300], "content": bytes(3 * 3300 * 3300)},
    }
    return {
        name: partial(_grpc, call=lambda client, triton, case=case: send(client, triton, **case))
        for name, case in cases.items()
    }


def _level(server: TritonServer, *, level: str) -> Answer:
    """A tile of the adjustable model at a level that is written as it is; what it makes of it is that client's own."""
    values = ",".join(["7"] * (3 * 32 * 32))
    body = (
        f'{{"inputs": [{{"name": "image", "shape": {SHAPE}, "datatype": "UINT8", "data": [{values}]}},'
        f' {{"name": "level", "shape": [1, 1], "datatype": "FP32", "data": [{level}]}}]}}'
    )
    code, text = http(server, "/v2/models/adjustable-blur/infer", body.encode(), {KEY_HEADER: str(server.key)})
    return code, "harmless" if code == 200 else text


def _numbers() -> dict[str, Request]:
    requests: dict[str, Request] = {
        f"a level of {level}": partial(_level, level=level) for level in ("NaN", "Infinity", "1e400", "-1e38", "null")
    }
    for value in ("NaN", "Infinity", "-Infinity", "1e400", "1.5"):
        body = f'{{"inputs": [{{"name": "image", "shape": {SHAPE}, "datatype": "UINT8", "data": [{value}]}}]}}'
        requests[f"a pixel of {value}"] = partial(_with_key, body=body.encode())
    for name, text in {
        "a priority": '"parameters": {"priority": 99999999999999999999}',
        "a timeout": '"parameters": {"timeout": -1}',
        "a sequence": '"parameters": {"sequence_id": -1, "sequence_start": true}',
    }.items():
        body = f'{{{text}, "inputs": [{{"name": "image", "shape": {SHAPE}, "datatype": "UINT8", "data": [0]}}]}}'
        requests[f"{name} out of range"] = partial(_with_key, body=body.encode())
    return requests


def _with_key(server: TritonServer, *, body: bytes) -> Answer:
    return http(server, "/v2/models/denoise/infer", body, {KEY_HEADER: str(server.key)})


def _bodies(*, thorough: bool) -> dict[str, Request]:
    start = b"POST /v2/models/denoise/infer HTTP/1.1\r\nHost: x\r\n"
    nested = 2_000_000 if thorough else 100_000
    chunks = 1_000_000 if thorough else 50_000
    return {
        "half a body": partial(_raw, parts=(start + b"Content-Length: 1000\r\n\r\n" + b"{" * 500,)),
        "no body": partial(_raw, parts=(start + b"Content-Length: 0\r\n\r\n",)),
        "a negative length": partial(_raw, parts=(start + b"Content-Length: -1\r\n\r\n{}",)),
        "a length of 10^30": partial(_raw, parts=(start + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n{}",)),
        "a length of 2^62": partial(_raw, parts=(start + f"Content-Length: {2**62}\r\n\r\n{{}}".encode(),)),
        "two lengths": partial(_raw, parts=(start + b"Content-Length: 2\r\nContent-Length: 99\r\n\r\n{}",)),
        "a header longer than the body": partial(
            http, path="/v2/models/denoise/infer", headers={"Inference-Header-Content-Length": "99999"}
        ),
        "a negative header length": partial(
            http, path="/v2/models/denoise/infer", headers={"Inference-Header-Content-Length": "-1"}
        ),
        "a header length that is a text": partial(
            http, path="/v2/models/denoise/infer", headers={"Inference-Header-Content-Length": "x"}
        ),
        "a compression that it is not": partial(
            http, path="/v2/models/denoise/infer", headers={"Content-Encoding": "gzip"}
        ),
        "no JSON": partial(http, path="/v2/models/denoise/infer", body=b"\x00\xff" * 1000),
        "a list": partial(http, path="/v2/models/denoise/infer", body=b"[]"),
        "deep lists": partial(http, path="/v2/models/denoise/infer", body=b"[" * nested),
        "deep mappings": partial(http, path="/v2/models/denoise/infer", body=b'{"a":' * nested),
        "deep values": partial(
            http,
            path="/v2/models/denoise/infer",
            body=f'{{"inputs": [{{"name": "image", "shape": {SHAPE}, "datatype": "UINT8", "data": '.encode()
            + b"[" * nested
            + b"]" * nested
            + b"}]}",
        ),
        "a chunk of no length": partial(
            _raw, parts=(start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",)
        ),
        "a chunk of 2^62": partial(
            _raw, parts=(start + b"Transfer-Encoding: chunked\r\n\r\n4000000000000000\r\n{}\r\n",)
        ),
        "chunks of a byte": partial(
            _raw, parts=(start + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * chunks + b"0\r\n\r\n",)
        ),
        "a form of 50 MB": partial(
            http,
            path="/v2/health/live",
            body=b"x" * 50_000_000,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://evil.test"},
        ),
        "headers without end": partial(_raw, parts=(start, b"X-A: " + b"a" * 2_000_000)),
        "no HTTP": partial(_raw, parts=(bytes(range(256)) * 16,)),
        "gRPC's bytes on HTTP's port": partial(_raw, parts=(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),)),
    }


def _raw(server: TritonServer, *, parts: tuple[bytes, ...], pause: float = 0.0) -> Answer:
    return raw(server, *parts, pause=pause)


def _connections(*, count: int) -> dict[str, Request]:
    return {
        f"{count} connections that send nothing": partial(_idle, count=count, port="http_port"),
        f"{count} connections of gRPC that send nothing": partial(_idle, count=count, port="grpc_port"),
        f"{count} connections that send half a header": partial(
            _idle, count=count, port="http_port", sends=b"POST /v2/models/denoise/infer HTTP/1.1\r\nHost:"
        ),
        f"{count} half bodies": partial(
            _idle,
            count=count,
            port="http_port",
            sends=b"POST /v2/models/denoise/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{",
        ),
        "a header of one byte at a time": partial(
            _raw, parts=tuple(bytes([each]) for each in b"POST /v2/x HTTP/1.1\r\nA: b\r\n"), pause=0.05
        ),
        "a flood of requests": _flood,
    }


def _idle(server: TritonServer, *, count: int, port: str, sends: bytes = b"") -> Answer:
    """Holds connections open for some seconds, in which an ordinary client must be served."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", getattr(server, port)), WAIT))
            connection.sendall(sends)
        right = np.array_equal(restored(server, IMAGE), convolve(IMAGE, BLUR))
    return 200, "harmless" if right else "an ordinary client was not served"


def _flood(server: TritonServer) -> Answer:
    """More requests at once than a queue takes: each is answered or refused."""
    import tritonclient.grpc as triton

    done: list[object] = []
    image = triton.InferInput("image", SHAPE, "UINT8").set_data_from_numpy(np.zeros(TILE, np.uint8))
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
        for _ in range(500):
            client.async_infer("denoise", [image], lambda result, error: done.append((result, error)))
        end = time.monotonic() + WAIT
        while len(done) < 500 and time.monotonic() < end:
            time.sleep(0.05)
    return 200, "harmless" if len(done) == 500 else f"{500 - len(done)} requests have no answer"
