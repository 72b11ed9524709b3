"""Loading, switching and unloading models on a running Triton server, over gRPC.

gRPC and not HTTP, because a load over HTTP stalls the server's other HTTP clients.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ReleaseError, RelumeError, ServerRefusedError, ServerUnreachableError
from relume.inference.estimator import TILE
from relume.serving import repository as models
from relume.serving.config_pbtxt import output_of, read_parameters
from relume.serving.route import Route, route_of
from relume.serving.shared_tiles import is_orphan
from relume.serving.triton_transport import CHANNEL, grpc_key

# What a server restricts to those who have its key. Nothing else carries the key: whether the server is the expected
# one is asked before.
_RESTRICTED = (
    "get_model_repository_index",
    "get_system_shared_memory_status",
    "load_model",
    "unload_model",
    "unregister_system_shared_memory",
)


class TritonControl:
    """The control of a Triton server that runs with explicit model control. Use it in a `with` statement.

    Args:
        address: `HOST:PORT` of its gRPC end point.
        key: The server's control key; None for a server whose control is open to all.
        load_timeout: Seconds that a load or unload may take; a model that dies while it starts would hang it.
    """

    def __init__(self, address: str, *, key: str | None = None, load_timeout: float = 120.0):
        import tritonclient.grpc as triton

        self.address = address.removeprefix("grpc://")
        self.key, self._load_timeout, self._triton = key, load_timeout, triton
        self._client = triton.InferenceServerClient(self.address, channel_args=CHANNEL)

    def __enter__(self) -> "TritonControl":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def live(self, *, timeout: float = 2.0) -> bool:
        """Whether the server answers at all."""
        try:
            return self._call("is_server_live", timeout=timeout)
        except RelumeError:
            return False

    def server(self) -> str | None:
        """The name that the server was started with; None when it does not answer."""
        try:
            return self._call("get_server_metadata", timeout=2.0).name
        except RelumeError:
            return None

    def models(self) -> dict[str, str]:
        """Names of the models that were ever loaded and their state, such as READY or UNAVAILABLE."""
        index = self._call("get_model_repository_index", timeout=10.0)
        return {model.name: model.state for model in index.models if model.state}

    def product_route(self, product: str) -> Route | None:
        """The releases that the running server serves a product by, or None if it does not serve it."""
        if self.models().get(product) != "READY":
            return None
        config = self._config(product)
        if not config.ensemble_scheduling.step:
            return None
        parameters = {name: each.string_value for name, each in config.parameters.items()}
        return route_of(config.ensemble_scheduling.step[0].model_name, parameters)

    def product_release(self, product: str) -> str | None:
        """The champion that the running server serves a product by, or None if it does not serve it."""
        route = self.product_route(product)
        return route.champion if route else None

    def load_release(self, release: str) -> None:
        """Loads a release and restores a tile by it; clients of other releases are not disturbed.

        Raises:
            ReleaseError: It cannot be loaded or does not restore a tile. It is not left loaded.
            ServerUnreachableError: The server does not answer.
        """
        try:
            self._load(release)
            self.probe(release, timeout=self._load_timeout)
        except ServerRefusedError as error:
            with contextlib.suppress(RelumeError):  # why it failed says more than that it is still in use
                self.unload(release)
            raise _not_served(release, error) from None
        except ServerUnreachableError as error:
            if not self.live():
                raise
            raise _not_served(release, error) from None  # an unload would wait for the load that hangs

    def switch_product(self, repository: str | Path, product: str, route: Route) -> None:
        """Makes clients of a product get other releases; no request fails or waits for it.

        Args:
            repository: The model repository of the server.
            product: Name of the product, such as `denoise`.
            route: Releases that are loaded.

        Raises:
            ReleaseError: The server refused it; the product points to what it pointed to before.
            ServerUnreachableError: The server does not answer.
        """
        loaded = self.models()
        for release in filter(None, (route.champion, route.candidate)):
            if loaded.get(release) != "READY":
                raise ReleaseError(
                    "The release is not loaded", where=release, next_step="load the release before switching to it"
                )
        before = models.products(repository).get(product)
        models.write_product(repository, product, route)
        try:
            self._load(product)
            self.probe(product)
        except RelumeError as error:
            if before is None:
                models.remove_product(repository, product)
            else:
                models.write_product(repository, product, before)
            if not self.live():
                raise
            if before is None:
                self._call("unload_model", product, timeout=self._load_timeout)
            else:
                self._load(product)
            raise ReleaseError(
                "The Triton server refused to switch the product",
                where=f"{product} to {route.candidate or route.champion}",
                why=error.why,
                next_step="see the server's log; what served before still serves",
            ) from None

    def load_product(self, repository: str | Path, product: str) -> None:
        """Loads a product and its champion as the repository has them, as after a start of the server.

        A candidate that was tried when the server ended is tried no longer: it may be why.

        Raises:
            ServerRefusedError: The server cannot load one of them.
            ServerUnreachableError: The server does not answer, or the load did not end in time.
        """
        champion = models.products(repository)[product].champion
        # Written anew, since the signature of a release does not cover it.
        models.write_product(repository, product, Route(champion=champion))
        self._load(champion)
        self._load(product)
        self.probe(product)

    def reload_release(self, repository: str | Path, release: str) -> None:
        """Restarts a release whose process died; it cannot answer until then.

        Raises:
            ServerRefusedError: The server cannot load it.
            ServerUnreachableError: The server does not answer, or the load did not end in time.
        """
        # Triton passes over a model whose files are unchanged. Each has this one, whatever computes it.
        os.utime(Path(repository) / release / "1" / "model.onnx")
        self._load(release)
        self.probe(release)

    def unload(self, model: str) -> None:
        """Unloads a release or product: requests in flight and in its queue are answered first.

        Raises:
            ServerUnreachableError: The server does not answer, or requests are still in flight after the time limit.
        """
        self._call("unload_model", model, timeout=self._load_timeout)
        deadline = time.monotonic() + self._load_timeout
        while self.models().get(model, "UNAVAILABLE") != "UNAVAILABLE":
            if time.monotonic() > deadline:
                raise ServerUnreachableError(
                    "The model is still in use",
                    where=model,
                    why=f"it was not unloaded within {self._load_timeout:.0f} s",
                    next_step="wait for its requests, or start the server again: relume down, then relume serve",
                )
            time.sleep(0.05)

    def regions(self) -> list[str]:
        """Names of the regions of shared memory that clients registered and the server has not been made to forget."""
        return sorted(self._call("get_system_shared_memory_status", timeout=10.0).regions)

    def sweep_regions(self) -> None:
        """Makes the server forget the regions of clients that have ended, which frees their memory.

        A region that a request still uses stays until the next sweep.
        """
        for region in filter(is_orphan, self.regions()):
            with contextlib.suppress(ServerRefusedError):
                self._call("unregister_system_shared_memory", region, timeout=10.0)

    def probe(self, model: str, *, timeout: float = 30.0) -> None:
        """Restores one black tile by each of its graphs, and estimates a level where there is a level estimator.

        It is the only proof that a model works, since a model whose process died reads READY.

        Raises:
            ServerRefusedError: The answer is an error.
            ServerUnreachableError: There is no answer in time.
        """
        config = self._config(model)
        stated = {output.name: output for output in config.output}
        for part, side, restored in self._graphs(config):
            if (output := output_of(part)) in stated:  # those of base models with their own tiles are not a product's
                self._probe(model, config, side, restored, timeout=timeout, output=output)
        if "estimated" in stated:
            self._probe(model, config, TILE, TILE, timeout=timeout, output="estimated")

    def _graphs(self, config: Any) -> list[tuple[str, int, int]]:
        """Part, side of the tiles and of what is restored of them, of each graph of a release, or of a product's."""
        if (side := config.input[0].dims[-1]) != -1:
            return [("", side, config.output[0].dims[-1])]
        steps = config.ensemble_scheduling.step
        stated = (self._config(steps[0].model_name) if steps else config).parameters
        plan, _ = read_parameters({name: value.string_value for name, value in stated.items()})
        return [(part, side, plan.scale * side) for part, side in plan.graphs]

    def _probe(self, model: str, config: Any, side: int, restored: int, *, timeout: float, output: str) -> None:
        from tritonclient.grpc.model_config_pb2 import DataType
        from tritonclient.utils import triton_to_np_dtype

        def black(tensor: Any, side: int) -> tuple[np.ndarray, str]:
            kind = DataType.Name(tensor.data_type).removeprefix("TYPE_")
            shape = [1, *(side if size == -1 else size for size in tensor.dims)]
            return np.zeros(shape, triton_to_np_dtype(kind)), kind

        inputs = []
        for tensor in config.input:  # the tile, and the level of an adjustable model
            values, kind = black(tensor, side)
            inputs.append(self._triton.InferInput(tensor.name, values.shape, kind))
            inputs[-1].set_data_from_numpy(values)
        outputs = [self._triton.InferRequestedOutput(output)]
        answer = self._call("infer", model, inputs, outputs=outputs, timeout=timeout).as_numpy(output)
        expected, _ = black(next(tensor for tensor in config.output if tensor.name == output), restored)
        if answer is None or (answer.shape, answer.dtype) != (expected.shape, expected.dtype):
            raise ServerRefusedError(
                "The answer is not a restored tile, or its level",
                where=model,
                why="it has another shape or type",
                next_step="export the model again, and release it",
            )

    def answers(self, model: str, *, timeout: float = 5.0) -> bool:
        """Whether a model works: it restores a tile in time, or is busy restoring those of others."""
        try:
            count = self._executions(model)
            try:
                self.probe(model, timeout=timeout)
            except ServerUnreachableError:
                return self._executions(model) > count
        except RelumeError:
            return False
        return True

    def _executions(self, model: str) -> int:
        statistics = self._call("get_inference_statistics", model, timeout=5.0).model_stats
        return sum(version.inference_stats.success.count for version in statistics)

    def _config(self, model: str) -> Any:
        return self._call("get_model_config", model, timeout=10.0).config

    def _load(self, model: str) -> None:
        self._call("load_model", model, timeout=self._load_timeout)

    def _call(self, method: str, *args: Any, timeout: float, **kwargs: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        headers = grpc_key(self.key if method in _RESTRICTED else None)
        try:
            return getattr(self._client, method)(*args, headers=headers, client_timeout=timeout, **kwargs)
        except InferenceServerException as error:
            status, why = error.status() or "", error.message().partition("\n\nAt:\n")[0]  # without the traceback
            next_step = "relume status"
            if "DEADLINE_EXCEEDED" in status:
                why = f"{method} did not end in {timeout:.0f} s"
            elif method == "is_server_live" or not self.live():
                next_step = "start the local server with `relume serve` or `relume up`"
            else:
                raise ServerRefusedError(
                    "The Triton server refused a call", where=f"{method} {' '.join(map(str, args[:1]))}", why=why
                ) from None
            raise ServerUnreachableError(
                "The Triton server does not answer", where=f"grpc://{self.address}", why=why, next_step=next_step
            ) from None


def _not_served(release: str, error: RelumeError) -> ReleaseError:
    return ReleaseError(
        "The Triton server cannot serve the release",
        where=release,
        why=error.why,
        next_step="the release before still serves; correct the model, then run `relume release` again",
    )
