"""What is opened as a file and what is not, and the permissions of what is written."""

import os
import socket
import stat

import pytest

from relume.files import NotRegularError, atomic_folder, open_regular, write_text


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


def mode(path):
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_the_umask_is_respected(tmp_path, mask):
    """New files and folders have the permissions that any other program would give them."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new.txt", "x")
        with atomic_folder(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    assert (mode(tmp_path / "new.txt"), mode(tmp_path / "new")) == (0o666 & ~mask, 0o777 & ~mask)


def test_what_is_replaced_keeps_its_permissions(tmp_path):
    """A file and a folder that their owner closed or opened to others stay so."""
    for permissions in (0o600, 0o664, 0o444):
        (tmp_path / "file").touch()
        (tmp_path / "file").chmod(permissions)
        write_text(tmp_path / "file", "new")
        assert mode(tmp_path / "file") == permissions
    (tmp_path / "folder").mkdir(mode=0o750)
    with atomic_folder(tmp_path / "folder"):
        pass
    assert mode(tmp_path / "folder") == 0o750
