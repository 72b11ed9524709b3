"""What is opened as a file and what is not, and the permissions of what is written."""

import os
import resource
import socket
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from relume.errors import SourceError, StorageError
from relume.files import NotRegularError, atomic_folder, check_space, open_regular, write_text


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


@pytest.fixture
def small_disk():
    """Files of this process cannot grow beyond 4 kB, as on a disk that is full."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_what_the_disk_refuses_is_said_and_loses_nothing(tmp_path, small_disk):
    """The error names the file, what stood there stands, and nothing is left beside it, whoever wrote."""
    write_text(tmp_path / "a.json", "old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(StorageError, match=r"a\.json"):
        write_text(tmp_path / "a.json", "x" * 10_000)
    with pytest.raises(StorageError, match="folder"), atomic_folder(tmp_path / "folder") as folder:
        save_file({"weights": np.zeros(10_000)}, folder / "model.safetensors")
    assert (tmp_path / "a.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "folder", "old"]


def test_a_disk_with_too_little_room_is_refused_before_it_is_full(tmp_path):
    """The message names the place, what is free and what is needed."""
    check_space(tmp_path, 0)
    with pytest.raises(StorageError, match=r"The disk is full: .*\n.*MB are free, and 1e\+12 are needed"):
        check_space(tmp_path, 1e12)


def test_a_folder_that_cannot_be_is_a_storage_error(tmp_path):
    """A home below a file is refused by name."""
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StorageError, match="home"):
        write_text(tmp_path / "home" / "services" / "a.json", "new")


def test_an_error_with_words_of_its_own_stays_as_it_is(tmp_path):
    """A refused photograph inside of a folder that is written is not reported as a fault of that folder."""
    with pytest.raises(SourceError, match="photo") as caught, atomic_folder(tmp_path / "out"):
        raise SourceError("The photograph cannot be read", where="photo.png", why="Permission denied")
    assert caught.value.exit_code == 2


def test_a_folder_replaces_a_file_and_a_file_no_folder(tmp_path):
    """A folder that takes a file's place can be entered; a file where a folder is ends in one message."""
    (tmp_path / "out").write_text("x")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "inner").write_text("y")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o700 == 0o700
    assert (tmp_path / "out" / "inner").read_text() == "y"
    with pytest.raises(StorageError, match="There is a folder where a file should be"):
        write_text(tmp_path / "out", "z")
