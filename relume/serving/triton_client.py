"""Restores images through a Triton server."""

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from relume.errors import ConfigError, ModelMissingError, ServerRefusedError, ServerUnreachableError
from relume.inference.estimator import estimate_level
from relume.inference.plan import Inference
from relume.inference.tiling import TYPES, RestoreBatch, require_rgb, restore_image
from relume.serving.config_pbtxt import output_of, read_parameters
from relume.serving.levels import LevelRange, choose_level
from relume.serving.registered_tiles import RegisteredTiles
from relume.serving.restoration import Restoration
from relume.serving.route import Route, route_of
from relume.serving.shared_tiles import SharedTiles, is_this_host
from relume.serving.triton_transport import (
    Asked,
    QueueFullError,
    RegionUnknownError,
    RestrictedError,
    Transport,
    connect,
)

__all__ = ["TritonRestorer"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServedRelease:
    """What restores an image of a product now.

    Attributes:
        release: Name of the release's model.
        route: The releases that the product points to; None for a release that was named itself.
        inference: How it restores.
        max_batch: Tiles in one request at most.
        levels: Those of an adjustable model; None for one that takes no level.
    """

    release: str
    inference: Inference
    max_batch: int
    levels: LevelRange | None = None
    route: Route | None = None

    @property
    def is_candidate(self) -> bool:
        """Whether it is tried on a share of the images only."""
        return self.route is not None and self.release == self.route.candidate

    @property
    def types(self) -> tuple[type, ...]:
        """Of the images that it restores: deeper ones than 8 bits if its tiles are float32."""
        return (np.uint8,) if self.inference.dtype == "uint8" else TYPES


class TritonRestorer:
    """A product, or one release, of a Triton server.

    On the server's own host the tiles go through shared memory, of which up to two regions are kept for the images to
    come (9 MB each for tiles of 512 pixels). Where the server refuses that, they go through the
    connection, and a warning is logged unless it is only that the server wants its control key. Use it in a `with`
    statement, or call `close`.

    Args:
        url: `HOST:PORT` or `grpc://HOST:PORT` (gRPC), or `http://HOST:PORT`.
        product: Name of a product such as `denoise`, or of a release.
        timeout: Seconds that one request may take, waiting in the server's queue included.
        batch: Tiles in one request.
        in_flight: Requests that wait for the server at a time, so that it is never idle.
        shared_memory: False sends the tiles through the connection on the same host as well.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.
        key: The server's control key, which a server of relume wants to see before it takes shared memory. It is not
            for other servers to see.

    Raises:
        ConfigError: `url` is not such an address, or `batch` or `in_flight` is less than 1.
    """

    def __init__(
        self,
        url: str,
        product: str,
        *,
        timeout: float = 60.0,
        batch: int = 2,
        in_flight: int = 3,
        shared_memory: bool = True,
        orientations: int | None = None,
        key: str | None = None,
    ):
        if min(batch, in_flight) < 1:
            raise ConfigError(
                "The number of tiles or requests is too small",
                where=f"batch {batch}, in_flight {in_flight}",
                next_step="give 1 or more for both",
            )
        self.product = product
        self._transport: Transport = connect(url, timeout=timeout, key=key)
        self._tiles = RegisteredTiles(self._transport)
        self._timeout, self._batch, self._in_flight = timeout, batch, in_flight
        self._orientations = orientations
        self._shared_memory = shared_memory and is_this_host(self._transport.host)

    def __enter__(self) -> "TritonRestorer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the shared memory and closes the connections."""
        self._tiles.close()
        self._transport.close()

    def server(self) -> str:
        """The name that the server was started with: for an embedded server, the address of its home's folder.

        Raises:
            ServerUnreachableError: The server does not answer.
        """
        return self._transport.server()

    def served(self, image_id: str | None = None) -> ServedRelease:
        """Asks the server which release restores an image of the product now.

        Args:
            image_id: Of the image, by which a share of the images goes to a candidate that is tried. The champion
                restores an image without one.

        Raises:
            ServerUnreachableError: The server does not answer.
            ModelMissingError: The server has no such product.
        """
        previous, release, route = None, self.product, None
        while True:
            try:
                config = self._transport.model_config(self.product)
                if steps := config.get("ensemble_scheduling", {}).get("step"):
                    route = route_of(steps[0]["model_name"], _parameters(config))
                    release = route.release(image_id)
                    config = self._transport.model_config(release)
                break
            except ServerRefusedError as error:
                if release == previous:  # else it may have been switched away from and unloaded between the calls
                    if route and release == route.candidate:
                        return self.served()  # which is not there any more; the champion is
                    raise ModelMissingError(
                        "The Triton server does not serve this model",
                        where=release,
                        why=error.why,
                        next_step="relume release",
                    ) from None
                previous = release
        inference, levels = read_parameters(_parameters(config))
        return ServedRelease(
            release=release, inference=inference, max_batch=int(config["max_batch_size"]), levels=levels, route=route
        )

    def restore(
        self,
        image_HWC: np.ndarray,
        *,
        level: float | None = None,
        image_id: str | None = None,
        served: ServedRelease | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """Restores an image; the whole of it by one release, also while the product is switched to another.

        The tiles are sent to the release itself. One that is taken away meanwhile leaves the image to what serves
        then; a candidate that cannot restore it leaves it to the champion.

        Args:
            image_HWC: (H, W, 3) RGB of any size: uint8, or of another of the `types` of what serves.
            level: For an adjustable model, of its kind; when None what its level estimator estimates, or its default.
            image_id: See `served`; a new one when None.
            served: What restores it, where `served` was asked already.
            on_progress: Called with the tiles done and the tiles in all.

        Raises:
            ImageError: Not such an image.
            ConfigError: `level` is no level of the served model's kind, or the model takes none.
            ServerUnreachableError: The server does not answer, or not in time.
            ServerRefusedError: The server answered with an error.
            ModelMissingError: The server has no such product.
        """
        image_id = image_id or uuid.uuid4().hex
        served, refused = served or self.served(image_id), None
        while True:
            try:
                estimated = level is None and served.inference.estimator is not None
                asked = self._estimated_level(image_HWC, served) if estimated else level
                try:
                    image, chosen = self._restored(image_HWC, served, asked, on_progress)
                except RegionUnknownError:  # the server was started again; a new region is registered with it
                    self._tiles.close()
                    image, chosen = self._restored(image_HWC, served, asked, on_progress)
            except (ServerRefusedError, ServerUnreachableError) as error:
                now = self.served(None if refused else image_id)
                if now.release == served.release and now.is_candidate:
                    refused, now = served.release, self.served()
                if now.release == served.release:
                    raise
                why = error.why or error.what
                _log.warning("%s restores the image, since %s could not: %s", now.release, served.release, why)
                served = now
                continue
            return Restoration(
                image=image,
                release=served.release,
                level=chosen,
                levels=served.levels,
                estimated=estimated,
                refused=refused,
            )

    def _estimated_level(self, image_HWC: np.ndarray, served: ServedRelease) -> float:
        require_rgb(image_HWC, served.types)
        assert served.levels is not None  # a release with a level estimator takes a level
        level = estimate_level(
            image_HWC,
            lambda tiles_NCHW: self._infer(served.release, tiles_NCHW, Asked(output="estimated", level=0.0)),
            dtype=served.inference.dtype,
            batch=min(self._batch, served.max_batch),
        )
        return served.levels.nearest(level)

    def _restored(
        self,
        image_HWC: np.ndarray,
        served: ServedRelease,
        level: float | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> tuple[np.ndarray, float | None]:
        """The image restored by a release, and the level that it was restored at."""
        batch = min(self._batch, served.max_batch)
        chosen = choose_level(level, served.levels, model=served.release)
        with self._backend(served, batch, chosen) as restore_batch:
            image = restore_image(
                image_HWC,
                restore_batch,
                served.inference.in_orientations(self._orientations),
                types=served.types,
                dtype=served.inference.dtype,
                batch=batch,
                in_flight=self._in_flight,
                on_progress=on_progress,
            )
        return image, chosen

    def restore_batch(
        self, tiles_NCHW: np.ndarray, level: float | None = None, *, part: str = "", seeds: np.ndarray | None = None
    ) -> np.ndarray:
        """Restores tiles of no image in particular in one request through the connection, by the champion.

        Args:
            tiles_NCHW: (N, 3, T, T) of the served size and type.
            level: For an adjustable model, which needs it; None for others.
            part: Of the plan of a release that was named itself.
            seeds: float32 (N,), of the masks, for a plan of several passes, which needs them.

        Raises:
            ServerUnreachableError: The server does not answer, or not in time.
            ServerRefusedError: The server answered with an error.
        """
        return self._infer(self.product, tiles_NCHW, Asked(output=output_of(part), level=level, seeds=seeds))

    def _infer(self, model: str, tiles_NCHW: np.ndarray, asked: Asked) -> np.ndarray:
        return self._when_queued(lambda: self._transport.infer(model, tiles_NCHW, asked))

    @contextlib.contextmanager
    def _backend(self, served: ServedRelease, batch: int, level: float | None) -> Iterator[RestoreBatch]:
        """The way to restore a batch: through shared memory that the server knows, or the connection."""
        plan = served.inference
        size = batch * 3 * max(plan.tiles) ** 2 * np.dtype(plan.dtype).itemsize
        results = {part.name: part.results for part in plan.parts}
        answer = max(results.values()) * plan.scale**2 * size
        with contextlib.ExitStack() as stack:
            shared = self._share(stack, size, answer) if self._shared_memory else None

            def restore_batch(tiles_NCHW: np.ndarray, part: str = "", seeds: np.ndarray | None = None) -> np.ndarray:
                count, channels, height, width = tiles_NCHW.shape
                shape = count, results[part] * channels, plan.scale * height, plan.scale * width
                asked = Asked(output=output_of(part), shape=shape, level=level, seeds=seeds)
                if shared is None:
                    return self._infer(served.release, tiles_NCHW, asked)
                return self._restore_shared(served.release, shared, tiles_NCHW, asked)

            yield restore_batch

    def _share(self, stack: contextlib.ExitStack, size: int, answer: int) -> SharedTiles | None:
        """A region that the server knows, until the stack is left; where there can be none, none from now on."""
        try:
            return stack.enter_context(self._tiles.lend(self._in_flight, size, answer))
        except OSError as error:
            self._share_no_more(error)
        except ServerRefusedError as error:
            self._share_no_more(error.why, logging.INFO if isinstance(error, RestrictedError) else logging.WARNING)
        return None

    def _share_no_more(self, why: object, level: int = logging.WARNING) -> None:
        _log.log(level, "The Triton server cannot use shared memory, so tiles are sent over the connection: %s", why)
        self._shared_memory = False

    def _restore_shared(self, model: str, tiles: SharedTiles, tiles_NCHW: np.ndarray, asked: Asked) -> np.ndarray:
        with tiles.slot() as slot:
            return self._when_queued(lambda: self._transport.infer(model, tiles_NCHW, asked, slot))

    def _when_queued(self, request: Callable[[], np.ndarray]) -> np.ndarray:
        """Sends a request, again and again with growing pauses while the model's queue is full."""
        deadline, pause = time.monotonic() + self._timeout, 0.05
        while True:
            try:
                return request()
            except QueueFullError:
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    return {name: each["string_value"] for name, each in config.get("parameters", {}).items()}
