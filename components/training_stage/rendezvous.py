"""Where the ranks of a training meet: a store that listens on one address. PyTorch's own listens on all interfaces."""

import socket

import psutil
from torch.distributed import Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

BACKEND = "one-address"  # torchrun's --rdzv-backend
TIMEOUT_SECONDS = 600  # for the other machines to come, torchrun's own


class OneAddressRendezvous(StaticTCPRendezvous):
    """torchrun's static rendezvous, but for the socket, which the first machine opens at the address of the store."""

    master_port: int
    _store: Store | None

    def get_backend(self) -> str:
        """Its name."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """See `StaticTCPRendezvous`."""
        if self.rank == 0 and not self._store:
            server = socket.create_server((self.master_addr, self.master_port))
            self.master_port = server.getsockname()[1]  # the system's choice for 0
            self._store = TCPStore(
                self.master_addr,
                self.master_port,
                self.world_size,
                is_master=True,
                timeout=self.timeout,
                multi_tenant=True,
                master_listen_fd=server.detach(),
            )
        return super().next_rendezvous()


def _handler(parameters: RendezvousParameters) -> RendezvousHandler:
    address, _, port = parameters.endpoint.rpartition(":")
    machine = int(parameters.config["rank"])
    return OneAddressRendezvous(address, int(port), machine, parameters.max_nodes, parameters.run_id, TIMEOUT_SECONDS)


rendezvous_handler_registry.register(BACKEND, _handler)


def interface_towards(address: str) -> str:
    """The name of the network interface by which this machine reaches an address, such as `lo` for its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 1))  # sends nothing
        own = probe.getsockname()[0]
    return next(name for name, places in psutil.net_if_addrs().items() if own in {place.address for place in places})
