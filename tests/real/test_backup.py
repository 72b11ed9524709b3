"""The procedure of docs/operations.md on the real embedded Triton: back up, lose the home, restore, roll back."""

import numpy as np
import pytest

from flows.backup import restore_backup, write_backup
from flows.embedded_triton import EmbeddedTriton
from flows.release.anchor import check_anchors, check_releases, read_anchors
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from flows.release.rollback import roll_back
from flows.release.served_product import serve_champions
from relume.errors import ModelMissingError
from tests.real.embedded_triton import link_server
from tests.real.releases import BLURS, make_checkout, release, served

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("with_key", [pytest.param(True, marks=pytest.mark.exhaustive), False])
def test_what_was_served_is_served_again_and_a_rollback_works(tmp_path, monkeypatch, with_key):
    """Two releases, a backup while clients may work, a lost home: the same pixels, and those of before by a rollback.

    Also without the private key: what it signed stays trusted, and the next release is signed by another.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root, home = make_checkout(tmp_path / "checkout"), tmp_path / "home"
    link_server(home)
    image = np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)
    try:
        results = []
        for blur in BLURS[:2]:
            release(root, home, blur=blur)
            results.append(served(home, image))
        before = Ledger(home).entries()
        write_backup(home, tmp_path / "backup.tar", keys=with_key)
    finally:
        EmbeddedTriton(home).stop()
    home.rename(tmp_path / "lost")
    home = tmp_path / "restored"
    link_server(home)
    try:
        restore_backup(home, tmp_path / "backup.tar")
        assert Ledger(home).entries() == before
        check_anchors(Ledger(home), read_anchors(Registry(home)))
        (champion,) = serve_champions(home)
        assert champion == before[-1].release
        assert np.array_equal(served(home, image), results[1])
        assert roll_back(root, home, product="denoise") == Ledger(home).current("denoise")
        assert np.array_equal(served(home, image), results[0])
        assert (home / "keys" / "signing.pem").is_file() == with_key
        assert release(root, home, blur=BLURS[2]).promoted
        assert len(list((home / "keys" / "trusted").iterdir())) == (1 if with_key else 2)
        check_anchors(Ledger(home), read_anchors(Registry(home)))
        assert check_releases(Ledger(home), home)
        # Any release that served serves again, also one that had been rolled back from.
        assert roll_back(root, home, product="denoise", to=champion.model) == champion
        assert np.array_equal(served(home, image), results[1])
        assert roll_back(root, home, product="denoise", to=champion.version) == champion
        with pytest.raises(ModelMissingError, match="No release of this name ever served"):
            roll_back(root, home, product="denoise", to="denoise-0")
    finally:
        EmbeddedTriton(home).stop()
