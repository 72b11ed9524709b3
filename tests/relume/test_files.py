"""What is opened as a file, and what is not."""

import os
import socket

import pytest

from relume.files import NotRegularError, open_regular


@pytest.fixture
def irregular(tmp_path):
    """Every kind of thing that is no regular file, with the words for it."""
    folder = tmp_path / "irregular"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "nothing.png").symlink_to("nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "folder.png").symlink_to(tmp_path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.png"))
    server.close()
    return {
        folder / "pipe.png": "a FIFO",
        folder / "zero.png": "a device",
        folder / "nothing.png": "a link whose target is missing",
        folder / "circle.png": "a link whose target is missing",
        folder / "folder.png": "a folder",
        folder / "socket.png": "a socket",
    }


def test_only_regular_files_are_opened(irregular, tmp_path):
    """Each is refused at once with its kind; a link to a file is that file."""
    for path, kind in irregular.items():
        with pytest.raises(NotRegularError, match=kind):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


def test_a_path_that_does_not_exist_is_not_found(tmp_path):
    """It is no irregular file but none."""
    with pytest.raises(FileNotFoundError) as caught:
        open_regular(tmp_path / "none")
    assert not isinstance(caught.value, NotRegularError)
