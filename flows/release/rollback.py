"""Rollback: the release that served before serves again, by one command, without Prefect."""

from pathlib import Path

from flows.release.ledger import Ledger, Release
from flows.release.package import product_of
from flows.release.served_product import ServedProduct, reach_server, reconcile_aliases, release_lock
from relume.errors import ModelMissingError, RelumeError
from relume.nearest import did_you_mean


def roll_back(
    root: Path, home: Path, *, product: str | None = None, server: str | None = None, to: str | None = None
) -> Release:
    """Serves the release of a product that served before its current one, or any earlier; no other product is touched.

    An interrupted promotion is undone instead, and an interrupted rollback is finished: in both cases the
    release that a rollback should lead to serves. An MLflow server that does not answer does not prevent a
    rollback; the next release sets the aliases.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        product: Its name; that of the checkout when None.
        server: gRPC address of a running Triton server; the embedded one when None.
        to: The release to serve, by its name or its version; the one before the current one when None.

    Returns:
        The release that serves now.

    Raises:
        ModelMissingError: There is nothing to go back to.
        ServerUnreachableError: The given server does not answer; nothing was changed.
        ReleaseError: The server cannot serve it; what served before still serves.
    """
    name, ledger = product or product_of(root), Ledger(home)
    chosen_release = _named(to, name, ledger) if to else None
    interrupted = any(entry.release.product == name for entry in ledger.unfinished())
    if chosen_release is None and ledger.previous(name) is None and not interrupted:
        # The ledger is enough to know this, so no server is started. A rollback may have been killed at its last step.
        with release_lock(home):
            reconcile_aliases(name, home)
        raise _nothing_before(name, ledger)
    with release_lock(home), reach_server(server, home) as (address, control):
        chosen = ServedProduct(name, home, address, control)
        interrupted = any(entry.release.product == name for entry in ledger.unfinished())
        chosen.reconcile()
        current, target = chosen.current, chosen.previous
        if chosen_release:
            target = chosen_release
        if current is not None and current != target and (chosen_release or not interrupted):
            if target is None:
                raise _nothing_before(name, ledger)
            ledger.append("rolling_back", target, server=address)
            try:
                chosen.serve(target)
            except RelumeError:
                ledger.append("abandoned", target, reason="the server could not serve it")
                raise
            ledger.append("rolled_back", target, left=current.model)
            current = target
        if current is None:  # the first promotion was interrupted, and undone
            raise _nothing_before(name, ledger)
        chosen.retire()
        reconcile_aliases(name, home)
        return current


def _named(to: str, product: str, ledger: Ledger) -> Release:
    """The release that served once and has this name or version."""
    served = ledger.promoted(product)
    for release in served:
        if to in (release.model, release.version):
            return release
    names = [release.model for release in served]
    if not names:
        raise _nothing_before(product, ledger)
    raise ModelMissingError(
        "No release of this name ever served",
        where=to,
        why=did_you_mean(to, names) or f"those that did: {', '.join(names)}",
        next_step=f"name one of them; `relume ledger show --product {product}` lists all",
    )


def _nothing_before(product: str, ledger: Ledger) -> ModelMissingError:
    if (current := ledger.current(product)) is None:
        if others := [name for name in ledger.products() if ledger.current(name)]:
            return ModelMissingError(
                "Nothing of this product was released yet",
                where=product,
                why=did_you_mean(product, others) or "it is neither served nor was it before",
                next_step=f"name a product that was released, with --product: {', '.join(others)}",
            )
        return ModelMissingError("Nothing was released yet", where=product, next_step="run `relume release`")
    return ModelMissingError(
        "There is no earlier release to go back to", where=current.model, next_step="see `relume status`"
    )
