"""The studio's web application, asked as the page asks it."""

import io
import time
import zipfile

import cv2
import numpy as np
import pytest
import requests
import skimage.data

from flows.release.ledger import Ledger, Release
from flows.restore import How, restore_file
from relume.home import relume_home
from relume.images import decode, encode, read_image, save_image
from relume.inference.plan import Inference
from relume.serving.levels import LevelRange
from tests.flows.release.synthetic import make_package
from tests.relume.images.test_metadata import photograph

PAGE = {"X-Relume-Studio": "1"}


def add(studio, data, name="cat.png"):
    return requests.post(f"{studio}/api/images", params={"name": name}, data=data, headers=PAGE, timeout=30)


def restored(studio, key, **wish):
    """Restores an image and waits for its end."""
    wish = {"product": "photo"} | wish
    answer = requests.post(f"{studio}/api/images/{key}/restore", json=wish, headers=PAGE, timeout=30)
    assert answer.status_code == 200, answer.text
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        image = next(each for each in requests.get(f"{studio}/api/images", timeout=30).json() if each["key"] == key)
        if image["state"] in ("restored", "failed"):
            return image
        time.sleep(0.05)
    raise AssertionError(f"not done after a minute: {image}")


def png(pixels):
    return encode(pixels, ".png")


@pytest.fixture
def cat():
    return skimage.data.chelsea()[:90, :120].copy()


def test_an_image_is_restored_as_by_relume_restore(studio, cat, tmp_path):
    """What is downloaded has the pixels and the metadata that the command line gives, at every blend and format."""
    save_image(tmp_path / "cat.png", cat)
    (tmp_path / "side.jpg").write_bytes(photograph())
    deep = np.dstack(
        [cat.astype(np.uint16) * 257 + 100, np.linspace(0, 65535, cat[..., 0].size).reshape(cat.shape[:2])]
    )
    save_image(tmp_path / "deep.png", deep.astype(np.uint16))
    for name, how in (("cat.png", How()), ("deep.png", How(blend=0.7)), ("side.jpg", How(blend=0.4, keep="place"))):
        key = add(studio, (tmp_path / name).read_bytes(), name).json()["key"]
        assert restored(studio, key)["release"].startswith("photo (shipped")
        wish = {"blend": how.blend, "keep": how.keep}
        answer = requests.get(f"{studio}/api/images/{key}/result", params=wish, timeout=30)
        expected = restore_file(tmp_path / name, tmp_path / f"expected-{name}", how=how).target.read_bytes()
        assert answer.content == expected
        stem, suffix = name.split(".")
        assert f'filename="{stem}-restored.{suffix}"' in answer.headers["content-disposition"]
    previews = [
        decode(requests.get(f"{studio}/api/images/{key}/{which}.png", timeout=30).content).pixels
        for which in ("before", "after")
    ]
    np.testing.assert_array_equal(previews[0], read_image(tmp_path / "side.jpg").pixels)
    assert np.any(previews[0] != previews[1])


def test_products_are_those_that_restore(studio):
    """The shipped ones with what they are for, adjustable ones with their levels; `photo` is the default."""
    answer = requests.get(f"{studio}/api/products", timeout=30).json()
    products = {each["name"]: each for each in answer["products"]}
    assert answer["default"] == "photo"
    assert "cameras" in products["photo"]["purpose"]
    assert products["photo"]["levels"] is None
    assert products["denoise_adjustable"]["levels"]["kind"] == "sigma"


def test_a_level_is_used_and_reported(studio, cat):
    """Two levels of an adjustable product give two results, and the noise of the image is estimated."""
    noisy = cat + np.random.default_rng(0).normal(0, 20, cat.shape)
    added = add(studio, png(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))).json()
    assert added["noise"] == pytest.approx(20, abs=3)
    results = []
    for level in (5, 25):
        image = restored(studio, added["key"], product="denoise_adjustable", level=level)
        assert image["level"] == level
        results.append(requests.get(f"{studio}/api/images/{added['key']}/after.png", timeout=30).content)
    errors = [np.mean((decode(result).pixels.astype(float) - cat) ** 2) for result in results]
    assert errors[1] < errors[0] / 2


def test_what_cannot_be_restored_is_said_and_leaves_nothing(studio, cat, tmp_path):
    """Files that are no images, products that are not there and levels that cannot be: one message, and go on."""
    answer = add(studio, b"no image at all", "notes.txt")
    assert answer.status_code == 400
    assert "notes.txt" in answer.json()["error"]
    assert "not an image" in answer.json()["error"]
    assert not list((tmp_path / "session").iterdir())
    key = add(studio, png(cat)).json()["key"]
    assert "photo" in restored(studio, key, product="foto")["error"]
    assert "takes no level" in restored(studio, key, level=5)["error"]
    assert requests.get(f"{studio}/api/images/{key}/result", timeout=30).status_code == 400
    assert restored(studio, key)["state"] == "restored"
    answer = requests.get(f"{studio}/api/images/{key}/result", params={"blend": 2}, timeout=30)
    assert (answer.status_code, "from 0 to 1" in answer.json()["error"]) == (400, True)
    answer = requests.get(f"{studio}/api/images/{key}/result", params={"quality": 101}, timeout=30)
    assert (answer.status_code, "from 1 to 100" in answer.json()["error"]) == (400, True)


def test_all_results_in_one_archive(studio, cat):
    """Each image that was restored, under names that differ; those that were not are left out."""
    for _ in range(2):
        restored(studio, add(studio, png(cat), "cat.png").json()["key"])
    add(studio, png(cat), "not_restored.png")
    content = requests.get(f"{studio}/api/results.zip", params={"suffix": ".jpg"}, timeout=30).content
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.namelist() == ["cat-restored.jpg", "cat-restored-2.jpg"]
    assert cv2.imdecode(np.frombuffer(archive.read("cat-restored.jpg"), np.uint8), 1).shape == cat.shape


def test_removed_images_leave_no_file(studio, cat, tmp_path):
    """Of an image that waits, is being restored or is done, nothing stays."""
    keys = [add(studio, png(np.tile(cat, (6, 6, 1)))).json()["key"] for _ in range(3)]
    for key in keys:
        requests.post(f"{studio}/api/images/{key}/restore", json={"product": "photo"}, headers=PAGE, timeout=30)
    for key in keys:
        assert requests.delete(f"{studio}/api/images/{key}", headers=PAGE, timeout=30).status_code == 200
    limit = time.monotonic() + 30
    while list((tmp_path / "session").iterdir()) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not list((tmp_path / "session").iterdir())
    assert requests.get(f"{studio}/api/images", timeout=30).json() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), (PAGE | {"Host": "relume.example"}, 400), (PAGE | {"Host": "127.0.0.1.example:80"}, 400)],
    ids=["another page", "another name", "a name that begins like this machine's"],
)
def test_other_pages_are_kept_out(studio, cat, headers, status):
    """A page of another origin cannot send the header, and no other name may point here."""
    answer = requests.post(f"{studio}/api/images", params={"name": "a.png"}, data=png(cat), headers=headers, timeout=30)
    assert answer.status_code == status
    assert requests.get(f"{studio}/api/images", timeout=30).json() == []


def test_addresses_stay_inside(studio, tmp_path):
    """No address leads to a file beside the page or the session."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    for path in ("/../session.py", "/%2e%2e/app.py", "/api/images/..%2Fsecret/before.png", "/api/images/x/before.png"):
        answer = requests.get(studio + path, timeout=30)
        assert answer.status_code in (400, 404), path
        assert b"secret\n" not in answer.content
        assert b"import" not in answer.content


def test_a_level_estimator_estimates_the_level(studio, tmp_path):
    """Where the page gives none: the product says that it does, and the image the level; one that is given holds."""
    levels = LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)
    plan = Inference(tile=64, halo=8, overlap=4, estimator="level")
    package = make_package(tmp_path / "package", inference=plan, levels=levels, product="clean")
    release = Release(product="clean", package=package.sha256, version="1", model=package.model)
    Ledger(relume_home()).append("promoted", release)
    offered = {each["name"]: each for each in requests.get(f"{studio}/api/products", timeout=30).json()["products"]}
    assert (offered["clean"]["estimates"], offered["denoise_adjustable"]["estimates"]) == (True, False)
    key = add(studio, png(np.full((90, 120, 3), 60, np.uint8))).json()["key"]
    assert restored(studio, key, product="clean")["level"] == 30
    assert restored(studio, key, product="clean", level=20)["level"] == 20
