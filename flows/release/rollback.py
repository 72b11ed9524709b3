"""Rollback: the release that served before serves again, by one command, without Prefect."""

import logging
from pathlib import Path

from flows.release.ledger import Ledger, Release
from flows.release.package import product_of
from flows.release.registry import Registry
from flows.release.served_product import ServedProduct, reach_server, release_lock
from relume.errors import ModelMissingError, RelumeError

_log = logging.getLogger(__name__)


def roll_back(root: Path = Path(), *, server: str | None = None) -> Release:
    """Serves the release that served before the current one.

    A promotion that was cut short is undone instead, and a rollback that was cut short is finished: in both
    cases the release that a rollback should lead to serves. An MLflow server that does not answer does not
    hold a rollback up; the next release sets the aliases.

    Args:
        root: The top of the checkout.
        server: gRPC address of a running Triton server; the embedded one when None.

    Returns:
        The release that serves now.

    Raises:
        ModelMissingError: There is nothing to go back to.
        ServerUnreachableError: The given server does not answer; nothing was moved.
        ReleaseError: The server cannot serve it; what served before serves on.
    """
    product = product_of(root)
    ledger = Ledger()
    if ledger.previous(product) is None and not ledger.unfinished():
        # The ledger alone knows it: no server is started to say so.
        raise _nothing_before(product, ledger.current(product))
    with release_lock(), reach_server(server) as (address, control):
        champion = ServedProduct(product, control, ledger)
        repaired, current, target = champion.set_right(), ledger.current(product), ledger.previous(product)
        if current is not None and not repaired:
            if target is None:
                raise _nothing_before(product, current)
            ledger.append("rolling_back", target, server=address)
            try:
                champion.serve(target)
            except RelumeError:
                ledger.append("abandoned", target, reason="the server could not serve it")
                raise
            ledger.append("rolled_back", target, left=current.model)
            current = target
        if current is None:  # the very first promotion was cut short, and undone
            raise _nothing_before(product, None)
        champion.retire()
        _move_aliases(champion)
        return current


def _nothing_before(product: str, current: Release | None) -> ModelMissingError:
    if current is None:
        return ModelMissingError("Nothing was released yet", where=product, next_step="relume release")
    return ModelMissingError(
        "There is no earlier release to go back to", where=current.model, next_step="relume status"
    )


def _move_aliases(champion: ServedProduct) -> None:
    try:
        champion.move_aliases(Registry(), candidate=None)
    except RelumeError as error:
        _log.warning("the aliases in MLflow were not moved, the next release does it: %s", error)
