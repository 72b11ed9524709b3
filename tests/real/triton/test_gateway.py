"""The gateway before a real Triton server, asked as any HTTP client asks."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from flows.gateway.app import Gateway, Limits, gateway_app
from flows.monitoring.requests import Requests
from flows.monitoring.tiles import HardTiles
from flows.restore import needed_memory
from relume.images import decode, encode, read_header
from relume.inference.plan import Inference
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.served_model import Serving, write_served_model
from tests.flows.release.synthetic import doubling
from tests.flows.web import serving
from tests.relume.images.test_metadata import photograph
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

TOKEN = "a-token-of-a-test"


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def gateway(server):
    """The address of a gateway that needs no token."""
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=Limits()))) as address:
        yield address


def restored(address, data, **query):
    return requests.post(f"{address}/v1/restore", params=query, data=data, timeout=60)


def test_an_image_comes_back_restored(gateway, served):
    """The pixels are those of ONNX Runtime in process; the answer says by which release, and in which time."""
    image = noise(70, 90)
    answer = requests.post(
        f"{gateway}/v1/restore", data=encode(image, ".png"), headers={"X-Request-Id": "mine-1"}, timeout=60
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-relume-release"] == "denoise-blur"
    assert answer.headers["x-request-id"] == "mine-1"
    assert {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")} == {
        "decode",
        "restore",
        "encode",
    }
    expected = OnnxRestorer(served["blur"], threads=1).restore(image).image
    np.testing.assert_array_equal(decode(answer.content).pixels, expected)


def test_the_format_is_that_of_the_image_or_the_one_asked_for(gateway):
    """A JPEG stays one, upright and with its EXIF; others are made on request; the blend is that of the input."""
    answer = restored(gateway, photograph())
    upright, sent = decode(answer.content), decode(photograph())
    assert (answer.headers["content-type"], upright.header.format, upright.header.orientation) == (
        "image/jpeg",
        "JPEG",
        1,
    )
    assert upright.pixels.shape == sent.pixels.shape
    assert upright.metadata.exif == sent.metadata.exif
    for kind in ("png", "webp", "tiff", "avif"):
        answer = restored(gateway, photograph(), format=kind)
        assert (answer.headers["content-type"], decode(answer.content, full=True).header.format.lower()) == (
            f"image/{kind}",
            kind,
        )
    image = noise(40, 40)
    half = decode(restored(gateway, encode(image, ".png"), blend=0.5).content).pixels
    mean = (image.astype(float) + convolve(image, BLUR)) / 2
    assert np.max(np.abs(half - mean)) <= 0.5


def test_formats_that_are_read_to_be_restored(gateway):
    """AVIF too, which training does not read; a file of more than 8 bits comes back with 8."""
    image = noise(40, 50)
    answer = restored(gateway, encode(image, ".avif"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/avif")
    answer = restored(gateway, encode(image.astype(np.uint16) * 257, ".png"))
    np.testing.assert_array_equal(decode(answer.content).pixels, convolve(image, BLUR))


def test_a_product_that_enlarges(server, control, tmp_path):
    """Through the gateway as well, whose numbers of a request are those of the pixels that were sent; where its larger
    result fits no memory the image is refused."""
    (tmp_path / "twice.onnx").write_bytes(doubling(64))
    serving_of = Serving(inference=Inference(tile=64, halo=8, overlap=4, scale=2))
    write_served_model(tmp_path / "twice.onnx", tmp_path / "served", serving_of)
    publish_release(tmp_path / "served", server.repository, "twice-1")
    control.load_release("twice-1")
    control.switch_product(server.repository, "twice", Route(champion="twice-1"))
    image = noise(200, 300)
    needed = needed_memory(read_header(encode(image, ".png")), plan=serving_of.inference)
    for memory, status in ((2 * needed, 200), (needed, 413)):
        limits = Limits(memory_bytes=memory, body_bytes=200_000)
        with serving(gateway_app(Gateway(server.grpc, "twice", key=server.key, limits=limits))) as address:
            answer = restored(address, encode(image, ".png"))
            assert answer.status_code == status, answer.text
            if status == 200:
                np.testing.assert_array_equal(decode(answer.content).pixels, image.repeat(2, axis=0).repeat(2, axis=1))


def test_many_clients_get_their_own_images(gateway):
    """Requests at once, of images of many sizes, each with its own result."""
    images = [noise(40 + 7 * index, 60) for index in range(12)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda image: restored(gateway, encode(image, ".png")), images))
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(decode(answer.content).pixels, convolve(image, BLUR))


@pytest.mark.parametrize(
    ("data", "query", "status", "says"),
    [
        (b"no image at all", {}, 415, "not an image"),
        (b"", {}, 422, "empty"),
        (encode(noise(30, 30), ".png")[:400], {}, 422, "body"),
        (encode(noise(30, 30), ".png"), {"product": "nothing"}, 404, "nothing"),
        (encode(noise(30, 30), ".png"), {"level": 5}, 422, "takes no level"),
        (encode(noise(30, 30), ".png"), {"format": "bmp"}, 422, "pattern"),
        (encode(noise(30, 30), ".png"), {"blend": 2}, 422, "less than or equal to 1"),
        (encode(noise(1100, 1000), ".png"), {}, 413, "megapixels"),
        (bytes(2_000_001), {}, 413, "2,000,001 bytes"),
        (iter([bytes(1_500_000), bytes(1_500_000)]), {}, 413, "more than 2,000,000 bytes"),
    ],
    ids=["text", "nothing", "cut", "product", "level", "format", "blend", "pixels", "length", "chunks"],
)
def test_what_cannot_be_restored(server, data, query, status, says):
    """A status of its own kind, and what is wrong; the gateway serves on."""
    limits = Limits(body_bytes=64_000_000 if says == "megapixels" else 2_000_000, megapixels=1)
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=limits))) as address:
        answer = restored(address, data, **query)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text
        assert restored(address, encode(noise(20, 20), ".png")).status_code == 200


def test_a_full_gateway_turns_away_and_recovers(server):
    """With memory for one image at a time and little patience, some of many get 503 and a time to come back; none
    fails."""
    image, turned_away = noise(400, 400), threading.Event()
    needed = needed_memory(read_header(encode(image, ".png")))
    limits = Limits(memory_bytes=2 * needed, body_bytes=needed // 2, seconds=2)

    class Slow(Gateway):
        def restore(self, *arguments):
            turned_away.wait(60)  # whoever has the memory keeps it until another one was turned away
            return super().restore(*arguments)

    def ask(_):
        answer = restored(address, encode(image, ".png"))
        if answer.status_code == 503:
            turned_away.set()
        return answer

    with (
        serving(gateway_app(Slow(server.grpc, "denoise", key=server.key, limits=limits))) as address,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(ask, range(24)))
        statuses = [answer.status_code for answer in answers]
        # On a busy machine a body may take longer than the 2 s to arrive, which is said by 408.
        assert {200, 503} <= set(statuses) <= {200, 408, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) > 0
            elif answer.status_code == 200:
                np.testing.assert_array_equal(decode(answer.content).pixels, convolve(image, BLUR))
        assert restored(address, encode(image, ".png")).status_code == 200


def test_an_image_that_never_fits_is_refused(server):
    """What needs more memory than there is gets 413 at once, and does not wait for room."""
    image = noise(400, 400)
    limits = Limits(memory_bytes=needed_memory(read_header(encode(image, ".png"))), body_bytes=1_000_000)
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=limits))) as address:
        answer = restored(address, encode(image, ".png"))
        assert (answer.status_code, "memory" in answer.json()["error"]) == (413, True)
        assert restored(address, encode(noise(100, 100), ".png")).status_code == 200


def test_a_client_that_leaves(server, caplog):
    """One that goes away in the middle of its body leaves no traceback in the log, and gives back what it held."""
    limits = Limits(memory_bytes=8_000_000, body_bytes=2_000_000)
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=limits))) as address:
        logging.getLogger("uvicorn.error").addHandler(caplog.handler)  # uvicorn passes nothing on to the root
        host, port = address.removeprefix("http://").split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(b"POST /v1/restore HTTP/1.1\r\nHost: relume\r\nContent-Length: 1900000\r\n\r\ngone")
        assert restored(address, encode(noise(20, 20), ".png")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_slow_sender_is_ended(server):
    """A body that does not arrive in its time gets 408, and gives back what it held."""
    limits = Limits(seconds=0.5, memory_bytes=8_000_000, body_bytes=2_000_000)
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=limits))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/restore HTTP/1.1\r\nHost: relume\r\nContent-Length: 1900000\r\n\r\nslow")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert restored(address, encode(noise(20, 20), ".png")).status_code == 200


def test_a_token_is_needed_where_there_is_one(server):
    """Restoring, products and metrics need it; whether the gateway is alive does not."""
    with serving(gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=Limits()), token=TOKEN)) as address:
        data = encode(noise(20, 20), ".png")
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer \xe4"},
        ):
            answer = requests.post(f"{address}/v1/restore", data=data, headers=header, timeout=60)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert requests.get(f"{address}/metrics", headers=header, timeout=60).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.post(f"{address}/v1/restore", data=data, headers=right, timeout=60).status_code == 200
        assert requests.get(f"{address}/healthz", timeout=60).json() == {"status": "alive"}


def test_what_is_served_counted_and_described(gateway):
    """The product's release, readiness, metrics that Prometheus reads, and the OpenAPI description."""
    assert requests.get(f"{gateway}/readyz", timeout=60).json()["release"] == "denoise-blur"
    assert requests.get(f"{gateway}/v1/products/denoise", timeout=60).json() == {
        "product": "denoise",
        "release": "denoise-blur",
        "levels": None,
    }
    for data in (encode(noise(100, 100), ".png"), b"text"):
        restored(gateway, data)
    text = requests.get(f"{gateway}/metrics", timeout=60).text
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["relume_answers_total", "415"] == 1
    assert values["relume_megapixels_total", "denoise-blur"] == pytest.approx(0.01)
    assert values["relume_seconds_count", "restore"] == 1
    described = requests.get(f"{gateway}/v1/openapi.json", timeout=60).json()
    assert {each["name"] for each in described["paths"]["/v1/restore"]["post"]["parameters"]} == {
        "product",
        "level",
        "format",
        "blend",
    }


def test_the_numbers_of_a_request_are_kept(server, home):
    """Those of the image that was sent and of what came back, with the release; a blend changes nothing of them. A
    database that cannot be written to costs the client nothing."""
    kept = Requests(home)
    image = noise(300, 200)
    gateway = Gateway(server.grpc, "denoise", key=server.key, limits=Limits(), requests=kept)
    with serving(gateway_app(gateway)) as address:
        for blend in (1, 0.25):
            assert restored(address, encode(image, ".png"), blend=blend).status_code == 200
        text = requests.get(f"{address}/metrics", timeout=60).text
        found = kept.first("denoise-blur", 10)
        kept.close()
        kept.path.write_bytes(b"damaged" * 1000)
        assert restored(address, encode(image, ".png")).status_code == 200
    removed = cv2.cvtColor(convolve(image, BLUR), cv2.COLOR_RGB2GRAY).astype(float)
    removed -= cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert list(found["removed"]) == pytest.approx([np.sqrt(np.mean(removed**2))] * 2)
    assert 'relume_statistics_count{release="denoise-blur",statistic="noise"} 2.0' in text
    assert {"nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us"} <= set(
        re.findall(
            r"^\w+", requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60).text, re.MULTILINE
        )
    )


def test_the_hardest_tile_is_kept_of_clients_who_agree(server, control, home, tmp_path):
    """It is the one in which the image and its mirror image come back most differently, as the client sent it; of an
    image whose client does not agree nothing is kept."""
    kernel = np.array([[0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    publish_release(write_tiny_model(tmp_path / "asymmetric", kernel=kernel), server.repository, "denoise-asymmetric")
    control.load_release("denoise-asymmetric")
    image = noise(300, 600) // 8
    image[:256, 256:512] *= 7
    tiles = HardTiles(home)
    with serving(
        gateway_app(Gateway(server.grpc, "denoise-asymmetric", key=server.key, limits=Limits(), tiles=tiles))
    ) as address:
        assert restored(address, encode(image, ".png")).status_code == 200
        answer = requests.post(
            f"{address}/v1/restore", data=encode(image, ".png"), headers={"X-Relume-Keep": "yes"}, timeout=60
        )
        assert answer.status_code == 200
        deadline = time.monotonic() + 60
        while not tiles.path.exists() or not _tiles(tiles):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ((kind, release, disagreement, png),) = _tiles(tiles)
    one, other = convolve(image, kernel), convolve(image[:, ::-1], kernel)[:, ::-1]
    difference = (one.astype(float) - other)[:256, 256:512]
    assert (kind, release) == ("orientation", "denoise-asymmetric")
    assert disagreement == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert np.array_equal(decode(png).pixels, image[:256, 256:512])


def _tiles(tiles):
    with tiles._database() as database:
        return database.execute("SELECT kind, release, disagreement, png FROM tiles").fetchall()


def test_a_server_that_stops_and_comes_back(triton, server, gateway):
    """While Triton is down the gateway says so with 503, and restores again when it is back."""
    data = encode(noise(20, 20), ".png")
    assert restored(gateway, data).status_code == 200
    triton.stop()
    answer = restored(gateway, data)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert requests.get(f"{gateway}/readyz", timeout=60).status_code == 503
    triton.start(grpc_port=server.grpc_port, http_port=server.http_port, metrics_port=server.metrics_port)
    limit = time.monotonic() + 30
    while restored(gateway, data).status_code != 200:
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_the_command(server, home, tmp_path):
    """`relume gateway` asks this home's server with its key, serves HTTPS, wants the token, and ends by Ctrl-C."""
    token, pem = tmp_path / "token", tmp_path / "certificate.pem"
    token.write_text(TOKEN)
    token.chmod(0o600)
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", pem, "-out", tmp_path / "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *options, *files], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    command = [sys.executable, "-c", "from relume.cli import main; main()", "gateway", "--server", server.grpc]
    process = subprocess.Popen(
        [*command, "--product", "denoise", "--port", "0", "--token-file", token, "--certificate", pem],
        cwd=tmp_path,
        env=os.environ | {"RELUME_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split()[0]
        assert address.startswith("https://127.0.0.1:")
        answer = requests.post(
            address,
            data=encode(noise(20, 20), ".png"),
            headers={"Authorization": f"Bearer {TOKEN}", "Connection": "close"},
            verify=tmp_path / "cert.pem",
            timeout=60,
        )
        assert (answer.status_code, answer.headers["x-relume-release"]) == (200, "denoise-blur")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
