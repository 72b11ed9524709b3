"""Images of NumPy, Pillow and PyTorch restored from Python: one or many, at once or awaited, here or by a server."""

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from relume import products
from relume.errors import ImageError
from relume.images import to_uint8
from relume.images.channels import joined, split
from relume.serving.backends import open_backend, usual_backend
from relume.serving.levels import LevelRange
from relume.serving.served_model import served_folder

__all__ = ["RemoteRestorer", "Restorer"]

Image = TypeVar("Image")
"""An image, which comes back restored as it was given:

- numpy.ndarray: (H, W) gray or (H, W, C) with 1 to 4 channels: gray, gray and alpha, RGB, RGB and alpha; uint8, uint16,
  or float in [0, 1].
- PIL.Image.Image: of any mode; others than L, LA, RGB, RGBA and I;16 become RGB or RGBA. Its `info` is kept.
- torch.Tensor: (C, H, W) or (N, C, H, W) with such channels, on any device, uint8, or floating point in [0, 1].
"""


class _Restorer(ABC):
    """What both restorers do: images of every kind, one after the other in a thread of its own."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="restorer")

    @abstractmethod
    def _restore_rgb(self, rgb_HWC: np.ndarray, level: float | None) -> np.ndarray:
        """Restores uint8, uint16 or float32 (H, W, 3) to the same type."""

    def close(self) -> None:
        """Waits for what is being restored and frees the model or the connection."""
        self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def restore(self, image: Image, *, level: float | None = None) -> Image:
        """Restores an image.

        Args:
            image: Of NumPy, Pillow or PyTorch, see `Image`.
            level: For an adjustable model; its default when None.

        Returns:
            The restored image, of the same kind and type, and of the same size unless the model enlarges. Alpha is
            as it was, gray stays gray.

        Raises:
            ImageError: It is no such image.
            ConfigError: The model takes no level, or it is no level of its kind.
        """
        return self._submit(image, level).result()

    def stream(self, images: Iterable[Image], *, level: float | None = None) -> Iterator[Image]:
        """Restores images in their order; while one is in use, the next is taken and restored."""
        pending: deque[Future[Image]] = deque()
        for image in images:
            pending.append(self._submit(image, level))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    async def restore_async(self, image: Image, *, level: float | None = None) -> Image:
        """Does what `restore` does, and leaves the event loop free."""
        return await asyncio.wrap_future(self._submit(image, level))

    async def stream_async(self, images: AsyncIterable[Image], *, level: float | None = None) -> AsyncIterator[Image]:
        """Does what `stream` does, and leaves the event loop free."""
        pending: deque[asyncio.Future[Image]] = deque()
        async for image in images:
            pending.append(asyncio.wrap_future(self._submit(image, level)))
            if len(pending) > 1:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()

    def _submit(self, image: Image, level: float | None) -> "Future[Image]":
        return self._worker.submit(self._restored, image, level)

    def _restored(self, image: Any, level: float | None) -> Any:
        if isinstance(image, np.ndarray):
            return self._array(image, level)
        if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
            return self._tensor(image, level)
        if "PIL.Image" in sys.modules and isinstance(image, sys.modules["PIL.Image"].Image):
            return self._pillow(image, level)
        raise ImageError(
            "This is no image that can be restored",
            reason="not_rgb",
            where=type(image).__name__,
            next_step="give an array of NumPy, an image of Pillow or a tensor of PyTorch",
        )

    def _array(self, image: np.ndarray, level: float | None) -> np.ndarray:
        pixels = image[..., np.newaxis] if image.ndim == 2 else image
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.dtype.name not in _COMPUTED_AS:
            raise ImageError(
                "The array is not an image",
                reason="not_rgb",
                where=f"array of {image.dtype} {image.shape}",
                next_step="give (height, width) or (height, width, 1 to 4) of uint8, uint16, or float in [0, 1]",
            )
        rgb, alpha = split(pixels)
        restored = self._restore_rgb(rgb.astype(_COMPUTED_AS[pixels.dtype.name], copy=False), level)
        result = joined(restored.astype(pixels.dtype, copy=False), gray=pixels.shape[2] <= 2, alpha=alpha)
        return result[..., 0] if image.ndim == 2 else result

    def _pillow(self, image: Any, level: float | None) -> Any:
        if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        from PIL import Image as pillow

        restored = pillow.fromarray(self._array(np.asarray(image), level))
        restored.info = dict(image.info)
        return restored

    def _tensor(self, image: Any, level: float | None) -> Any:
        import torch

        if image.ndim == 4:
            return torch.stack([self._tensor(each, level) for each in image])
        array = image.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        restored = self._array(np.ascontiguousarray(array.numpy().transpose(1, 2, 0)), level)
        return torch.from_numpy(np.ascontiguousarray(restored.transpose(2, 0, 1))).to(image)


# In which of the types that models take an image is restored.
_COMPUTED_AS = {"uint8": "uint8", "uint16": "uint16", "float16": "float32", "float32": "float32", "float64": "float32"}


class Restorer(_Restorer):
    """Restores images in this process.

    16-bit and float images are restored in float32, 8-bit ones as they are served. It may be used from several threads
    and coroutines, which take turns.

    Args:
        model: The name of a product that ships, or the folder of a served model or a package, or an ONNX file of one.
        orientations: In which the image is restored, 1, 2, 4 or 8; the mean is the result, a little better, in as many
            times the time. As the model says when None.
        tile: Side of the tiles that an image is cut into, a multiple of 16: larger ones are faster and take more
            memory. As the model says when None.
        threads: Of the computation; by default one for each core that this process may use.

    Attributes:
        release: Name of the model.
        levels: Kind, range and default of an adjustable model's level; None for others.

    Raises:
        ModelMissingError: There is no such model.
        ConfigError: `orientations` or `tile` is another number, or the model has tiles of one size.
    """

    def __init__(
        self,
        model: str | Path = "photo",
        *,
        orientations: int | None = None,
        tile: int | None = None,
        threads: int | None = None,
    ):
        super().__init__()
        shipped = model in products.names() or not Path(model).exists()
        self._model = open_backend(
            usual_backend(shipped=shipped),
            products.shipped(str(model)) / "serving" if shipped else served_folder(model),
            release=str(model),
            threads=threads,
            orientations=orientations,
            tile=tile,
        )
        self.release: str = self._model.release
        self.levels: LevelRange | None = self._model.serving.levels

    def _restore_rgb(self, rgb_HWC: np.ndarray, level: float | None) -> np.ndarray:
        return self._model.restore(rgb_HWC, level=level).image


class RemoteRestorer(_Restorer):
    """Restores images with a Triton server; the calls are those of `Restorer`.

    Models are served with tiles of 8 bits, but for those of a self-ensemble: through the others, deeper images come
    back in their type with the values of 8 bits.

    Args:
        server: HOST:PORT of gRPC, or http://HOST:PORT.
        product: That the server serves.
        orientations: As of `Restorer`.
        timeout: Seconds that one request may take, waiting in the server's queue included.
        batch: Tiles in one request.
        in_flight: Requests that wait for the server at a time, so that it is never idle.
        shared_memory: False sends the tiles through the connection on the server's own host as well.
        key: The server's control key, which a server of relume wants to see before it takes shared memory.

    Raises:
        ConfigError: `server` is no such address, or a number is not a possible one.
    """

    def __init__(
        self,
        server: str,
        product: str,
        *,
        orientations: int | None = None,
        timeout: float = 60.0,
        batch: int = 2,
        in_flight: int = 3,
        shared_memory: bool = True,
        key: str | None = None,
    ):
        from relume.serving.triton_client import TritonRestorer

        super().__init__()
        self._client = TritonRestorer(
            server,
            product,
            timeout=timeout,
            batch=batch,
            in_flight=in_flight,
            shared_memory=shared_memory,
            orientations=orientations,
            key=key,
        )

    @property
    def release(self) -> str:
        """Which release serves the product now."""
        return self._client.served().release

    @property
    def levels(self) -> LevelRange | None:
        """Kind, range and default of the level of the release that serves now; None when it is not adjustable."""
        return self._client.served().levels

    def close(self) -> None:
        """Waits for what is being restored and closes the connection."""
        super().close()
        self._client.close()

    def _restore_rgb(self, rgb_HWC: np.ndarray, level: float | None) -> np.ndarray:
        if rgb_HWC.dtype != np.uint8 and rgb_HWC.dtype in self._client.served().types:
            return self._client.restore(rgb_HWC, level=level).image
        restored = self._client.restore(to_uint8(rgb_HWC), level=level).image
        if rgb_HWC.dtype == np.float32:
            return restored / np.float32(255)
        return restored if rgb_HWC.dtype == np.uint8 else restored * np.uint16(257)
