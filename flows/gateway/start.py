"""Which server and product a gateway of this checkout is for."""

from pathlib import Path

from flows.embedded_triton import EmbeddedTriton
from flows.gateway.app import Gateway, Limits
from flows.monitoring.requests import Requests
from flows.monitoring.tiles import HardTiles
from flows.restore import released_product
from relume.errors import ServerUnreachableError
from relume.home import place_of_release


def connected(root: Path, *, server: str | None, product: str | None, keep: float = 0.0) -> Gateway:
    """A gateway to a server that answers and serves the product.

    Args:
        root: The checkout.
        server: Triton's gRPC address; the embedded server of the last release's home when None.
        product: That restores where a client names none; that of the checkout, or the only one released, when None.
        keep: Share in percent of the images of clients who agree of which a tile may be kept; 0 keeps none.

    Raises:
        ServerUnreachableError: No server runs, or it does not answer.
        ConfigError: Nothing says which product is meant.
        ModelMissingError: The server does not serve it.
    """
    home = place_of_release(root)[1]
    embedded = EmbeddedTriton(home)
    own = embedded.running() if server is None else embedded.at(server)
    address = server or (own.grpc if own else None)
    if address is None:
        raise ServerUnreachableError(
            "The embedded Triton server does not run",
            next_step="start it with `relume serve`, or name one with --server",
        )
    product = product or released_product(root)
    gateway = Gateway(
        address,
        product,
        key=own.key if own else None,
        limits=Limits(),
        requests=Requests(home),
        tiles=HardTiles(home) if keep else None,
        keep=keep,
    )
    gateway.restorer(product)
    return gateway
