"""Which image made what dvc.lock names."""

from flows.container_images import images_of, remember_images
from flows.lock import entry_of, merge
from flows.runners import StageResult


def ran(entry, image):
    """The result of a stage with a dvc.lock entry of its name and a text."""
    return StageResult(stage="", outcome="ran", seconds=1, entry=entry, image=image)


def lock(**commands):
    """A dvc.lock of stages that differ by their commands."""
    return merge("", [f"{stage}: {{cmd: {command}}}" for stage, command in commands.items()], list(commands))


def test_an_image_is_known_for_the_entry_that_it_made_and_no_other(tmp_path):
    """A stage that ran in no container has none, nor has one whose entry changed; an older entry gets its own back."""
    first, second = lock(ingest="one", curate="two", package="three"), lock(ingest="one", curate="other")
    remember_images(
        tmp_path,
        [
            ran(entry_of(first, "ingest"), "sha256:data"),
            ran(entry_of(first, "curate"), "sha256:data"),
            ran(entry_of(first, "package"), None),
        ],
    )
    assert images_of(tmp_path, first) == {"ingest": "sha256:data", "curate": "sha256:data"}
    assert images_of(tmp_path, second) == {"ingest": "sha256:data"}
    remember_images(tmp_path, [ran(entry_of(second, "curate"), "sha256:new")])
    assert images_of(tmp_path, second) == {"ingest": "sha256:data", "curate": "sha256:new"}
    assert images_of(tmp_path, first) == {"ingest": "sha256:data", "curate": "sha256:data"}
    assert images_of(tmp_path, "") == {}
