"""The studio's page in a real browser: what a person clicks, types, sees and saves."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from flows.restore import How, restore_file
from relume.images import decode, read_image, save_image


@pytest.fixture
def page(chromium, studio):
    """The studio's page; a request to another host, or an error on the page, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    troubles = []
    page.on("request", lambda request: request.url.startswith((studio, "blob:")) or troubles.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("response", lambda response: response.status >= 500 and troubles.append(response.url))
    page.goto(studio)
    expect(page.get_by_label("Product")).to_have_value("photo")
    yield page
    context.close()
    assert troubles == []


@pytest.fixture
def photographs(tmp_path):
    """Two photographs with noise, and the sigma of that noise."""
    noise = np.random.default_rng(0)
    for name, image in (("cat.png", skimage.data.chelsea()), ("astronaut.png", skimage.data.astronaut())):
        noisy = image[:256, :384] + noise.normal(0, 20, image[:256, :384].shape)
        save_image(tmp_path / name, np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return tmp_path / "cat.png", tmp_path / "astronaut.png"


def add(page: Page, *files: Path) -> None:
    """Chooses files, and waits until all images are restored."""
    count = page.locator("#images li").count() + len(files)
    page.set_input_files("#files", files)
    expect(page.locator("#images li.restored")).to_have_count(count, timeout=60_000)


def place(page: Page) -> tuple[float, float]:
    """Where the image's first pixel is on the screen."""
    box = page.locator("#layers").bounding_box()
    return box["x"], box["y"]


def count_events(page: Page, *kinds: str) -> None:
    """Lets the page count events of some kinds, after its own handlers: see `wait_for_events`."""
    page.evaluate(
        "kinds => { window.taken = 0; kinds.forEach(kind => addEventListener(kind, () => { window.taken += 1 })) }",
        kinds,
    )


def wait_for_events(page: Page, count: int) -> None:
    """Waits until the page has taken so many events."""
    page.wait_for_function("count => window.taken >= count", arg=count)


def shown(page: Page) -> np.ndarray:
    """The image as the screen shows it, RGB, where it is no larger than the stage."""
    page.evaluate("Promise.all([...document.querySelectorAll('#layers img')].map((image) => image.decode()))")
    # A decoded image is on the screen when the frame that it is drawn in has been followed by another.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = page.locator("#layers").bounding_box()
    return decode(page.screenshot(clip=box)).pixels


def test_photographs_are_restored_when_they_are_added(page, photographs, tmp_path):
    """Each view shows at 100 % what it says: the exact pixels before, after, and eight times their difference."""
    add(page, *photographs)
    expect(page.locator("#status")).to_contain_text("cat.png: 384 × 256")
    page.get_by_role("button", name="100 %").click()
    page.get_by_label("Before", exact=True).check()
    before = read_image(photographs[0]).pixels
    np.testing.assert_array_equal(shown(page), before)
    restore_file(photographs[0], tmp_path / "after.png")
    after = read_image(tmp_path / "after.png").pixels
    page.get_by_label("After", exact=True).check()
    np.testing.assert_array_equal(shown(page), after)
    page.get_by_label("Difference").check()
    difference = np.abs(before.astype(int) - after) * 8
    assert np.max(np.abs(shown(page).astype(int) - np.minimum(difference, 255))) <= 8
    page.get_by_label("Slider").check()
    page.get_by_label("Divider").fill("50")
    image = shown(page)
    np.testing.assert_array_equal(image[:, :170], before[:, :170])
    np.testing.assert_array_equal(image[:, 214:], after[:, 214:])
    page.get_by_role("button", name="astronaut.png").first.click()
    expect(page.locator("#status")).to_contain_text("astronaut.png")
    page.get_by_role("button", name="100 %").click()
    page.get_by_label("Before", exact=True).check()
    np.testing.assert_array_equal(shown(page), read_image(photographs[1]).pixels)


def test_the_level_follows_the_noise_and_the_person(page, photographs):
    """An adjustable product takes the estimated noise, until a person sets the level."""
    page.get_by_label("Product").select_option("denoise_adjustable")
    add(page, photographs[0])
    estimated = float(page.get_by_label("Noise (sigma)").input_value())
    assert estimated == pytest.approx(20, abs=3)
    expect(page.locator("#status")).to_contain_text("level")
    page.get_by_label("Noise (sigma)").fill("40")
    expect(page.get_by_label("Follow the estimated noise")).not_to_be_checked()
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.locator("#status")).to_contain_text("level 40", timeout=60_000)


def test_results_are_saved_as_the_person_chose(page, photographs, tmp_path):
    """The download has the blend and format of the page; all images come in one archive."""
    add(page, *photographs)
    page.get_by_label("Blend").fill("60")
    page.get_by_label("Format").select_option(".tif")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    assert download.value.suggested_filename == "cat-restored.tif"
    expected = restore_file(photographs[0], tmp_path / "expected.tif", how=How(blend=0.6)).target
    np.testing.assert_array_equal(cv2.imread(str(download.value.path())), cv2.imread(str(expected)))
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Self-ensemble").select_option("4")
    page.get_by_label("Computed by").select_option("openvino_f32")
    expect(page.locator("#stale")).to_be_visible()
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.locator("#status")).to_contain_text("by photo (shipped, openvino_f32)", timeout=60_000)
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.get_by_label("Quality")).to_be_hidden()  # of a TIFF
    page.get_by_label("Format").select_option(".jpg")
    page.get_by_label("Quality").fill("60")
    page.get_by_label("Quality").press("Tab")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    how = How(blend=0.6, quality=60)
    expected = restore_file(photographs[0], tmp_path / "e.jpg", how=how, orientations=4, backend="openvino_f32").target
    assert download.value.path().read_bytes() == expected.read_bytes()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    assert download.value.suggested_filename == "restored.zip"


def test_a_dropped_folder_gives_its_images(page, photographs, tmp_path):
    """Those of folders inside as well; what is no image by its name is left out without a word."""
    (tmp_path / "holiday" / "one").mkdir(parents=True)
    photographs[0].rename(tmp_path / "holiday" / "cat.png")
    photographs[1].rename(tmp_path / "holiday" / "one" / "astronaut.png")
    (tmp_path / "holiday" / "notes.txt").write_text("no image")
    box, browser = page.locator("#drop").bounding_box(), page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "holiday")], "dragOperationsMask": 1}
    count_events(page, "dragenter", "dragover", "drop")
    for number, kind in enumerate(("dragEnter", "dragOver", "dragOver", "drop"), start=1):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data})
        wait_for_events(page, number)
    expect(page.locator("#images li.restored")).to_have_count(2, timeout=60_000)
    expect(page.locator("#status")).not_to_contain_text("notes.txt")
    assert {each.get_attribute("title") for each in page.locator(".pick").all()} == {"cat.png", "astronaut.png"}


def test_what_is_not_as_it_looks_is_said(page, tmp_path):
    """That settings do not apply to the image yet, and what the chosen format does not hold."""
    save_image(tmp_path / "deep.png", skimage.data.chelsea()[:64, :96].astype(np.uint16) * 257)
    stale, lost = page.locator("#stale"), page.locator("#lost")
    add(page, tmp_path / "deep.png")
    expect(stale).to_be_hidden()
    page.get_by_label("Product").select_option("denoise")
    expect(stale).to_have_text("The image shows photo until it is restored again.")
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.locator("#status")).to_contain_text("by denoise", timeout=60_000)
    expect(stale).to_be_hidden()
    expect(lost).to_be_hidden()
    page.get_by_label("Format").select_option(".jpg")
    expect(lost).to_have_text("16-bit values were rounded to 8 bits, the most that JPEG holds here.")


def test_it_is_used_by_keyboard(page, photographs):
    """Every control can be reached by Tab with its focus visible, and the stage zooms and moves by keys."""
    add(page, photographs[0])
    reached = set()
    page.locator("header").click()
    page.keyboard.press("Tab")
    while (focused := page.locator(":focus")).count():
        reached.add(focused.evaluate("each => each.id || each.dataset.zoom || each.className || each.name"))
        target = focused.locator("xpath=..") if focused.get_attribute("id") == "files" else focused
        assert target.evaluate("each => getComputedStyle(each).outlineStyle") == "solid", reached
        page.keyboard.press("Tab")
    assert reached >= {
        "stage",
        "divider",
        "in",
        "fit",
        "pick",
        "remove",
        "files",
        "product",
        "restore",
        "blend",
        "save",
    }
    page.locator("#stage").focus()
    page.keyboard.press("1")
    expect(page.locator("#scale")).to_have_text("100 %")
    for _ in range(3):
        page.keyboard.press("+")
    assert int(page.locator("#scale").inner_text().removesuffix(" %")) == pytest.approx(337, abs=1)
    x, y = place(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert place(page) == (x + 40, y - 40)
    page.keyboard.press("0")
    box, stage = page.locator("#layers").bounding_box(), page.locator("#stage").bounding_box()
    assert 0 <= min(stage[side] - box[side] for side in ("width", "height")) < 1


def test_the_divider_is_dragged_and_the_image_moved(page, photographs):
    """Dragging the line moves it; dragging the image moves that, and the wheel zooms under the pointer."""
    add(page, photographs[0])
    box = page.locator("#stage").bounding_box()
    middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle_x, middle_y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle_y)
    page.mouse.up()
    assert float(page.locator("#divider").input_value()) == pytest.approx(25, abs=1)
    page.mouse.move(middle_x, middle_y)
    count_events(page, "wheel")
    for _ in range(4):
        page.mouse.wheel(0, -400)
    wait_for_events(page, 4)
    scale = int(page.locator("#scale").inner_text().removesuffix(" %"))
    assert scale > 400
    x, y = place(page)
    page.mouse.down()
    page.mouse.move(middle_x + 30, middle_y - 20)
    page.mouse.up()
    assert place(page) == (x + 30, y - 20)


def test_what_is_wrong_is_said_and_the_rest_goes_on(page, photographs, tmp_path):
    """A file that is no image is named, the others are restored, and a removed image is gone."""
    (tmp_path / "notes.txt").write_text("no image")
    page.set_input_files("#files", [tmp_path / "notes.txt", photographs[0]])
    expect(page.locator("#status")).to_contain_text("The file is not an image: notes.txt")
    expect(page.locator("#images li.restored")).to_have_count(1, timeout=60_000)
    expect(page.locator("#status")).to_contain_text("by photo")
    expect(page.locator("#status")).to_contain_text("The file is not an image: notes.txt")  # until it was read
    page.get_by_role("button", name="cat.png").first.click()
    expect(page.locator("#status")).not_to_contain_text("notes.txt")
    page.reload()
    expect(page.locator("#images li.restored")).to_have_count(1)
    page.get_by_role("button", name="Remove cat.png").click()
    expect(page.locator("#images li")).to_have_count(0)
    expect(page.locator("#drop")).to_be_visible()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_nothing_hinders_anyone(page, photographs, width, height):
    """axe-core finds nothing in either state, and a phone's page is as wide as its screen."""
    page.emulate_media(reduced_motion="reduce")  # a colour on its way to another is no state
    page.set_viewport_size({"width": width, "height": height})
    assert Axe().run(page).violations_count == 0
    add(page, photographs[0])
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    stage = page.locator("#stage").bounding_box()
    assert stage["height"] >= height / 3
