"""The gateway's web application: it reads an image, has Triton restore it, and writes it in the format asked for.

    curl --data-binary @noisy.jpg http://127.0.0.1:8770/v1/restore -o clean.jpg

Memory is bounded: bodies share one budget and images another, by what the header says that restoring takes. A request
that finds no room in time gets 503 and `Retry-After`.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import random
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool

from flows.gateway.budget import Budget, BusyError
from flows.gateway.metrics import Metrics
from flows.monitoring.requests import Requests
from flows.monitoring.tiles import HardTiles, Tile
from flows.restore import How, finished, needed_memory, saving_options
from flows.web import application, serve
from relume import __version__
from relume.curation.quality import gray, noise_sigma
from relume.errors import (
    ConfigError,
    ImageError,
    ModelMissingError,
    RelumeError,
    ServerRefusedError,
    ServerUnreachableError,
)
from relume.images import decode, encode, read_header, to_uint8
from relume.inference.plan import Inference
from relume.metrics import EQUAL, psnr
from relume.monitoring.disagreement import SIDE, largest_disagreement
from relume.monitoring.statistics import measure_request
from relume.serving.restoration import Restoration
from relume.serving.triton_client import ServedRelease, TritonRestorer
from relume.settings import Settings

_log = logging.getLogger(__name__)
CONNECTIONS = 100  # at a time; more get 503 at once
_RETRY_SECONDS = 5
_SHADOW_VALUES = 72_000_000  # of an image that a candidate restores beside the champion: 24 megapixels
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "avif": ".avif"}  # by subtype of image/
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")


class Limits(Settings):
    """What a gateway takes.

    Attributes:
        body_bytes: Of a body.
        megapixels: Of an image.
        memory_bytes: Of all bodies and images at a time: a quarter for the bodies, the rest for the images.
        seconds: That a client may take to send a body, and that a request may wait for memory, each.
    """

    body_bytes: int = Field(default=64_000_000, gt=0)
    megapixels: float = Field(default=100.0, gt=0)
    memory_bytes: int = Field(default=3_000_000_000, gt=0)
    seconds: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _holds_a_body(self) -> "Limits":
        if self.body_bytes > self.memory_bytes // 4:
            raise ValueError("a body may have a quarter of the memory at most")
        return self


class RefusedError(Exception):
    """A request that is answered with an error of HTTP.

    Args:
        status: Of HTTP.
        message: What is wrong.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Wanted:
    """What a client asks for beside its image.

    Attributes:
        product: To restore with.
        level: For an adjustable model; its default when None.
        format: Of the answer; None for that of the image.
        blend: Share of the restored image.
        image_id: By which all tries of an image go to one release.
        keep: Whether a tile of it may be kept for a next training.
    """

    product: str
    level: float | None
    format: str | None
    blend: float
    image_id: str
    keep: bool


class Gateway:
    """What the requests of a gateway share: Triton's clients, the budgets, the metrics.

    Args:
        server: Triton's gRPC address.
        product: That restores where the client names none.
        key: Triton's control key, for shared memory.
        limits: What is taken.
        requests: Where the numbers of each request are kept for the monitoring; nowhere when None.
        tiles: Where tiles of clients who agree are kept; nowhere when None.
        keep: Share in percent of their images, outside of a shadow, of which one may be.
    """

    def __init__(
        self,
        server: str,
        product: str,
        *,
        key: str | None,
        limits: Limits,
        requests: Requests | None = None,
        tiles: HardTiles | None = None,
        keep: float = 100.0,
    ):
        self.product, self.limits, self.requests, self.metrics = product, limits, requests, Metrics()
        self.tiles, self._keep = tiles, keep
        self._server, self._key = server, key
        self._restorers: dict[str, TritonRestorer] = {}
        self._plans: dict[str, Inference] = {}
        self._shadows_free = threading.Semaphore(1)
        self.bodies = Budget(limits.memory_bytes // 4, wait=limits.seconds)
        self.images = Budget(limits.memory_bytes - limits.memory_bytes // 4, wait=limits.seconds)

    def restorer(self, product: str) -> TritonRestorer:
        """The client for a product; kept once the server is known to serve it."""
        if (known := self._restorers.get(product)) is not None:
            return known
        new = TritonRestorer(self._server, product, key=self._key)
        try:
            new.served()
        except BaseException:
            new.close()
            raise
        if (kept := self._restorers.setdefault(product, new)) is not new:
            new.close()
        return kept

    def plan(self, product: str) -> Inference:
        """How a product restored its last image, or restores its first."""
        if product not in self._plans:
            self._plans[product] = self.restorer(product).served().inference
        return self._plans[product]

    def close(self) -> None:
        """Closes the connections to Triton, and the database."""
        for restorer in self._restorers.values():
            restorer.close()
        for database in filter(None, (self.requests, self.tiles)):
            database.close()

    def restore(self, data: bytes, wanted: Wanted) -> tuple[bytes, str, Restoration, dict[str, float]]:
        """Restores the bytes of an image.

        Returns:
            The bytes of the result, its subtype of `image/`, the restoration, and the seconds by part.
        """
        seconds: dict[str, float] = {}
        restorer = self.restorer(wanted.product)
        with _timed(seconds, "decode"):
            image = decode(data, where="the body", max_megapixels=self.limits.megapixels, full=True)
        kind = wanted.format or image.header.format.lower()
        kind = kind if kind in _SUFFIXES else "png"
        with _timed(seconds, "restore"):
            pixels, served = image.pixels, restorer.served(wanted.image_id)
            self._plans[wanted.product] = served.inference
            if image.header.bit_depth > 8 and pixels.dtype not in served.types:
                pixels = to_uint8(pixels)
            restoration = restorer.restore(pixels, level=wanted.level, image_id=wanted.image_id, served=served)
        self._measure(pixels, restoration, served, sum(seconds.values()))
        shadow = served.route.shadow_of(wanted.image_id) if served.route else None
        if shadow is not None and shadow != restoration.release:
            self._shadow(shadow, pixels, wanted, restoration, seconds["restore"])
        elif self._keeps(wanted) and 100 * random.random() < self._keep:
            self._mirror(pixels, wanted, restoration)
        with _timed(seconds, "encode"):
            how, suffix = How(blend=wanted.blend), _SUFFIXES[kind]
            pixels, metadata = finished(image, restoration.image, how)
            options = saving_options(f"image{suffix}", image, how)
            result = encode(pixels, suffix, metadata=metadata, **options)
        self.metrics.megapixels.labels(restoration.release).inc(image.header.megapixels)
        for part, value in seconds.items():
            self.metrics.seconds.labels(part).observe(value)
        return result, kind, restoration, seconds

    def _measure(self, before: np.ndarray, restoration: Restoration, served: ServedRelease, seconds: float) -> None:
        """Counts and keeps the numbers of a request, and which candidate could not restore it."""
        if (refused := restoration.refused) is not None:
            self._note(lambda requests: requests.add_failure(refused))
        statistics = measure_request(before, restoration.image, served.inference, seconds=seconds)
        if statistics is None:
            return
        for name, value in asdict(statistics).items():
            self.metrics.statistics.labels(name, restoration.release).observe(value)
        self._note(lambda requests: requests.add(restoration.release, statistics))

    def _shadow(
        self,
        name: str,
        pixels: np.ndarray,
        wanted: Wanted,
        restoration: Restoration,
        seconds: float,
    ) -> None:
        """Lets the candidate restore what the champion did, beside the answer; one image at a time, none too large."""

        def run() -> None:
            try:
                candidate = self.restorer(name)
                started = time.perf_counter()
                image = to_uint8(candidate.restore(pixels, level=wanted.level).image)
                slower = (time.perf_counter() - started) / seconds
                agreement = min(psnr(image, to_uint8(restoration.image)), EQUAL)
                self._note(lambda requests: requests.add_shadow(name, psnr=agreement, slower=slower))
            except RelumeError as error:
                _log.warning("The candidate failed in the shadow: %s", error)
                self._note(lambda requests: requests.add_failure(name))
            else:
                if self._keeps(wanted):
                    self._keep_tile("candidate", pixels, restoration, image)

        self._beside(pixels, run)

    def _mirror(self, pixels: np.ndarray, wanted: Wanted, restoration: Restoration) -> None:
        """Lets the release restore the mirror image as well, beside the answer, and keeps where the two differ most."""

        def run() -> None:
            try:
                mirrored = self.restorer(restoration.release).restore(pixels[:, ::-1], level=wanted.level).image
            except RelumeError as error:
                _log.warning("A tile is not kept: %s", error)
            else:
                self._keep_tile("orientation", pixels, restoration, to_uint8(mirrored[:, ::-1]))

        self._beside(pixels, run)

    def _beside(self, pixels: np.ndarray, run: Callable[[], None]) -> None:
        """Does something with an image beside the answers; one image at a time, none too large."""
        if pixels.size > _SHADOW_VALUES or not self._shadows_free.acquire(blocking=False):
            return

        def run_and_release() -> None:
            try:
                run()
            finally:
                self._shadows_free.release()

        threading.Thread(target=run_and_release, name="shadow", daemon=True).start()

    def _keeps(self, wanted: Wanted) -> bool:
        return wanted.keep and self.tiles is not None

    def _keep_tile(self, kind: str, pixels: np.ndarray, restoration: Restoration, other: np.ndarray) -> None:
        """Keeps the tile in which a restoration and another one of the same image differ most."""
        scale = len(restoration.image) // len(pixels)
        found = largest_disagreement(to_uint8(restoration.image), other, side=scale * SIDE)
        if found is None or self.tiles is None:
            return
        top, left = found.top // scale, found.left // scale
        sent = to_uint8(pixels[top : top + SIDE, left : left + SIDE])
        tile = Tile(
            kind=kind,
            release=restoration.release,
            disagreement=found.levels,
            noise=noise_sigma(gray(sent)),
            png=encode(sent, ".png"),
        )
        try:
            self.tiles.add(tile)
        except (RelumeError, OSError) as error:
            _log.warning("A tile is not kept: %s", error)

    def _note(self, note: Callable[[Requests], None]) -> None:
        """Notes something of a request. What cannot be noted is logged; the client gets its image."""
        if self.requests is None:
            return
        try:
            note(self.requests)
        except (RelumeError, OSError) as error:
            _log.warning("A request is missing in the monitoring: %s", error)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def gateway_app(gateway: Gateway, *, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        gateway: What its requests share; closed when the application ends.
        token: That clients send as `Authorization: Bearer TOKEN`; None takes everyone.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        gateway.close()

    app = application(title="relume", version=__version__, openapi_url="/v1/openapi.json", lifespan=lifespan)

    @app.middleware("http")
    async def account(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        asked = request.headers.get("x-request-id", "")
        request.state.id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        response = await call_next(request)
        response.headers["X-Request-Id"] = request.state.id
        if request.url.path.startswith("/v1/"):
            gateway.metrics.answers.labels(response.status_code).inc()
        return response

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return _error(request, error.status, str(error))

    @app.exception_handler(RelumeError)
    async def failed(request: Request, error: RelumeError) -> JSONResponse:
        return _error(request, _status_of(error), str(error))

    @app.exception_handler(BusyError)
    async def busy(request: Request, _: BusyError) -> JSONResponse:
        return _error(request, 503, "All memory for images is in use; try again later")

    def authorized(authorization: Annotated[str, Header(include_in_schema=False)] = "") -> None:
        if token is not None and not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise RefusedError(401, "The request needs the header `Authorization: Bearer TOKEN` with the right token")

    @app.post(
        "/v1/restore",
        dependencies=[Depends(authorized)],
        response_class=Response,
        openapi_extra={"requestBody": {"required": True, "content": {"image/*": {}, "application/octet-stream": {}}}},
        responses={200: {"description": "The restored image.", "content": {"image/*": {}}}},
    )
    async def restore(
        request: Request,
        product: Annotated[str | None, Query(description="To restore with; by default the gateway's.")] = None,
        level: Annotated[float | None, Query(description="For an adjustable model; its default when left out.")] = None,
        format: Annotated[
            str | None,
            Query(pattern=f"^({'|'.join(_SUFFIXES)})$", description="Of the answer; by default the image's."),
        ] = None,
        blend: Annotated[float, Query(ge=0, le=1, description="Share of the restored image in the answer.")] = 1.0,
    ) -> Response:
        """Restores the image in the body: PNG, JPEG, WebP, TIFF, BMP or GIF."""
        image_id = request.headers.get("x-relume-image", "")
        image_id = image_id if _REQUEST_ID.fullmatch(image_id) else request.state.id
        keep = request.headers.get("x-relume-keep") == "yes"
        wanted = Wanted(product or gateway.product, level, format, blend, image_id, keep)
        async with gateway.bodies.share(_announced(request, gateway.limits)):
            data = await _received(request, gateway.limits)
            header = read_header(data, where="the body", full=True)
            needed = needed_memory(header, plan=await run_in_threadpool(gateway.plan, wanted.product))
            if needed > gateway.images.size:
                takes = f"up to {needed / 1e9:.1f} GB of memory, and the gateway has {gateway.images.size / 1e9:.1f}"
                raise RefusedError(413, f"The image is too large: restoring it takes {takes}")
            async with gateway.images.share(needed):
                with gateway.metrics.restoring.track_inprogress():
                    result, kind, restoration, seconds = await run_in_threadpool(gateway.restore, data, wanted)
        headers = {
            "X-Relume-Release": restoration.release,
            "X-Relume-Image": image_id,
            "Server-Timing": ", ".join(f"{part};dur={1000 * value:.1f}" for part, value in seconds.items()),
        }
        if restoration.level is not None and restoration.levels is not None:
            headers["X-Relume-Level"] = f"{restoration.levels.kind} {restoration.level:g}"
        return Response(result, media_type=f"image/{kind}", headers=headers)

    @app.get("/v1/products/{product}", dependencies=[Depends(authorized)])
    def served(product: str) -> dict[str, Any]:
        """What a product is served by: its release, and the levels of an adjustable one."""
        now = gateway.restorer(product).served()
        return {"product": product, "release": now.release, "levels": now.levels}

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Answers while the gateway runs."""
        return {"status": "alive"}

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        """Answers 200 while Triton serves the gateway's product."""
        return {"status": "ready", "release": gateway.restorer(gateway.product).served().release}

    @app.get("/metrics", dependencies=[Depends(authorized)])
    def metrics() -> Response:
        """What was counted and timed, for Prometheus."""
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _announced(request: Request, limits: Limits) -> int:
    """Bytes that the client says the body has; the most that is taken where it does not say."""
    try:
        announced = int(request.headers.get("content-length", limits.body_bytes))
    except ValueError:
        raise RefusedError(400, "Content-Length is not a number") from None
    if announced > limits.body_bytes:
        raise RefusedError(413, f"The body has {announced:,} bytes; at most {limits.body_bytes:,} are taken")
    return announced


async def _received(request: Request, limits: Limits) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.body_bytes:
                    raise RefusedError(
                        413, f"The body has more than {limits.body_bytes:,} bytes, which is all that is taken"
                    )
    except TimeoutError:
        raise RefusedError(408, f"The body did not arrive within {limits.seconds:g} seconds") from None
    return bytes(data)


def _status_of(error: RelumeError) -> int:
    if isinstance(error, ImageError):
        return {"decompression_bomb": 413, "unsupported_format": 415, "missing_package": 415, "wrong_magic": 415}.get(
            error.reason, 422
        )
    if isinstance(error, ModelMissingError):
        return 404
    if isinstance(error, ServerUnreachableError):
        return 503
    return 502 if isinstance(error, ServerRefusedError) else 422


def _error(request: Request, status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": message, "request_id": request.state.id}, status_code=status, headers=headers)


def read_token(path: Path) -> str:
    """The token in a file, which others may not read.

    Raises:
        ConfigError: It is not such a file, or holds no token.
    """
    try:
        mode, token = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise ConfigError(
            "The token cannot be read", where=path, why=why, next_step="name a file with one line"
        ) from None
    if mode & 0o077:
        raise ConfigError("Others may read the token", where=path, next_step=f"chmod 600 {path}")
    if len(token) < 16:
        raise ConfigError(
            "The token has fewer than 16 characters", where=path, next_step=f"openssl rand -hex 32 > {path}"
        )
    return token


def run(
    gateway: Gateway,
    *,
    host: str,
    port: int,
    token: str | None,
    certificate: Path | None,
    certificate_key: Path | None,
    say: Callable[[str], None],
) -> None:
    """Serves a gateway until it is interrupted; see `flows.web.serve` for the other arguments.

    Args:
        gateway: What its requests share.
        host: Address to listen at.
        token: That clients send; None takes everyone, on loopback only.

    Raises:
        ConfigError: Others than this machine could ask without a token, or the address or certificate cannot be used.
    """
    if token is None and not _is_loopback(host):
        raise ConfigError(
            "Other machines could use the gateway without a token", where=host, next_step="add --token-file FILE"
        )
    serve(
        gateway_app(gateway, token=token),
        host=host,
        port=port,
        say=say,
        certificate=certificate,
        certificate_key=certificate_key,
        connections=CONNECTIONS,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
