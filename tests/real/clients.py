"""Clients of a product that restore one image over and over, while something happens to its server."""

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from relume.serving.triton_client import TritonRestorer


class Clients:
    """Clients, one at each address, that note which release each of their images came from. Use it in a `with`.

    Args:
        urls: Addresses of the server, one for each client.
        image: What they restore, uint8 (H, W, 3).
        answers: By name, what it becomes by each release that may serve. More can be added while they run.
        key: The server's control key.
        pause: Seconds between two images of one client.
    """

    def __init__(
        self,
        urls: Sequence[str],
        image: np.ndarray,
        answers: Mapping[str, np.ndarray],
        *,
        key: str | None = None,
        pause: float = 0.0,
    ):
        self.answers = dict(answers)
        self.seen: list[str] = []
        """For each image the name of its release, or `a mixture`."""
        self.errors: list[Exception] = []
        self._image, self._key, self._pause = image, key, pause
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for url in urls]

    def _run(self, url: str) -> None:
        with TritonRestorer(url, "denoise", batch=2, key=self._key) as restorer:
            while not self._end.is_set():
                try:
                    restored = restorer.restore(self._image).image
                except Exception as error:
                    self.errors.append(error)
                    self._end.wait(0.1)
                    continue
                matching = [name for name, answer in list(self.answers.items()) if np.array_equal(restored, answer)]
                self.seen.append(matching[0] if matching else "a mixture")
                self._end.wait(self._pause)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, count: int) -> None:
        """Waits until so many more images were restored, a request failed, or a minute passed."""
        target, deadline = len(self.seen) + count, time.monotonic() + 60
        while len(self.seen) < target and not self.errors and time.monotonic() < deadline:
            time.sleep(0.01)
