"""Public sets by name: the catalogue, and downloads from a real server that breaks off, changes files or is away."""

import http.server
import itertools
import json
import re
import socket
import threading
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.errors import SourceError
from relume.images import encode
from relume.ingestion.layouts import NAMES
from relume.ingestion.public_sets import RECORD, PublicSet, SetFile, catalogue, fetch_set
from relume.ingestion.sources import scan

WANTED = [
    *("div2k", "flickr2k", "lsdir", "bsds500", "wed", "sidd", "gopro", "rain100l", "its", "ots", "reside"),
    *("polyu", "kodak24", "cbsd68", "mcmaster", "urban100"),
]


class Server:
    """Files over HTTP with ranges; `most` bytes are sent of an answer before the connection is closed."""

    def __init__(self):
        self.files, self.most, self.asked = {}, None, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                data, span = outer.files.get(self.path.lstrip("/")), self.headers.get("Range")
                outer.asked.append((self.path.lstrip("/"), span))
                if data is None:
                    self.send_error(404)
                    return
                first = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
                if first >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if span else 200)
                if span:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - first))
                self.end_headers()
                self.wfile.write(data[first:][: outer.most])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path):
    """A server with an archive of two photographs and three single images."""
    started = Server()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number in range(2):
            archive.writestr(f"train/{number}.png", image(number))
        archive.writestr("test/9.png", image(9))
    started.files = {"set.zip": (tmp_path / "set.zip").read_bytes()}
    started.files |= {f"img{number:02d}.png": image(number) for number in (1, 2, 3)}
    yield started
    started.close()


def image(seed):
    """The bytes of a PNG."""
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8), ".png")


def a_set(address, **changes):
    """A catalogued set at an address."""
    file = SetFile(name="set.zip", address=f"{address}/set.zip")
    settings = {"title": "A set", "page": "https://example.org/set", "licence": "free", "commercial": "yes"}
    return PublicSet(**{**settings, "use": "training", "files": (file,), "sources": ("set.zip#train/",), **changes})


def test_the_catalogue_has_the_sets_of_the_field():
    """Each has a page, terms, a known layout, and either files with addresses or what to fetch by hand."""
    assert list(catalogue()) == WANTED
    for name, public in catalogue().items():
        assert public.page.startswith("http"), name
        assert bool(public.files) != bool(public.by_hand), name
        assert public.layout in ("", *NAMES), name
        names = [single.name for file in public.files for single in file.each()]
        assert len(set(names)) == len(names), name
        assert all(source.partition("#")[0] in names for source in public.sources), name
    assert len([single for file in catalogue()["urban100"].files for single in file.each()]) == 100


def test_terms_that_forbid_commercial_use_say_so():
    """Of sets for research alone the terms say it in capitals, and none that is unclear counts as allowed."""
    assert {name for name, public in catalogue().items() if public.commercial == "yes"} == {"kodak24"}
    for name in ("div2k", "bsds500", "polyu", "cbsd68"):
        assert "NO COMMERCIAL USE" in catalogue()[name].terms
    listed = CliRunner().invoke(main, ["data", "fetch"]).output
    assert listed.count("NO COMMERCIAL USE") == 4
    assert all(name in listed for name in WANTED)


def test_a_fetched_set_is_scanned_by_what_the_command_says(server, tmp_path):
    """The downloaded archive is a source as it is, with the part that trains; its checksum is recorded."""
    fetched = fetch_set("mine", a_set(server.address), tmp_path / "data")
    files = scan(fetched.sources)["files"]
    assert [entry["set"] for entry in files] == ["mine", "mine"]
    assert list(json.loads((tmp_path / "data" / RECORD).read_text())) == ["set.zip"]
    again = fetch_set("mine", a_set(server.address), tmp_path / "data")
    assert (again, len(server.asked)) == (fetched, 1)  # nothing is downloaded twice


def test_numbered_files_become_a_folder_of_images(server, tmp_path):
    """A template stands for each of its numbers, and the folder is the source."""
    numbered = SetFile(name="img{number:02d}.png", address=server.address + "/img{number:02d}.png", numbers=3)
    fetched = fetch_set("three", a_set(server.address, files=(numbered,), sources=()), tmp_path / "data")
    assert [path.read_bytes() for path in fetched.files] == [image(1), image(2), image(3)]
    assert len(scan(fetched.sources)["files"]) == 3


def test_a_download_that_breaks_off_is_resumed(server, tmp_path):
    """The bytes that are there are not asked for again, in the same call and after a failed one."""
    server.files["set.zip"] = whole = np.random.default_rng(1).bytes(500_000)
    server.most = 200_000
    fetch_set("mine", a_set(server.address), tmp_path / "data")
    assert (tmp_path / "data" / "set.zip").read_bytes() == whole
    starts = [int(span[6:-1]) for _, span in server.asked[1:]]
    assert len(starts) == 2
    assert all(180_000 < start - before <= 200_000 for before, start in itertools.pairwise([0, *starts]))

    server.most = 50_000
    with pytest.raises(SourceError, match="could not be downloaded"):
        fetch_set("mine", a_set(server.address), tmp_path / "other")
    assert not (tmp_path / "other" / "set.zip").exists()
    server.most = None
    fetch_set("mine", a_set(server.address), tmp_path / "other")
    assert int(server.asked[-1][1][6:-1]) > 100_000
    assert (tmp_path / "other" / "set.zip").read_bytes() == whole


def test_without_a_network_the_message_says_which_file_to_put_where(server, tmp_path):
    """The file, its address and the folder are named; a file that is put there is taken, checked and recorded."""
    folder = tmp_path / "data"
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(SourceError) as caught:
            fetch_set("mine", a_set(away), folder)
        assert f"put set.zip from {away}/set.zip into {folder}" in caught.value.next_step
        (folder / "set.zip").write_bytes(server.files["set.zip"])
        assert len(scan(fetch_set("mine", a_set(away), folder).sources)["files"]) == 2
    assert (folder / RECORD).is_file()


def test_a_set_behind_a_form_says_what_to_put_where(tmp_path):
    """Archives and images that are put into the folder by hand are taken, with the layout of the set."""
    by_hand = a_set("http://unused", files=(), sources=(), by_hand="the archive", layout="polyu")
    with pytest.raises(SourceError, match="cannot be downloaded by a program") as caught:
        fetch_set("mine", by_hand, tmp_path / "data")
    assert f"put the archive from https://example.org/set into {tmp_path / 'data'}" in caught.value.next_step
    with zipfile.ZipFile(tmp_path / "data" / "any.zip", "w") as archive:
        archive.writestr("noisy/1.png", image(1))
        archive.writestr("clean/1.png", image(2))
    fetched = fetch_set("mine", by_hand, tmp_path / "data")
    assert fetched.sources == (f"mine=polyu:{tmp_path / 'data' / 'any.zip'}",)
    assert "degraded" in scan(fetched.sources)["files"][0]


def test_a_file_that_is_not_the_recorded_one_is_refused(server, tmp_path):
    """A file that changed since the first fetch, or is not the published one, is named with both checksums."""
    fetch_set("mine", a_set(server.address), tmp_path)
    (tmp_path / "set.zip").write_bytes(b"other")
    with pytest.raises(SourceError, match=f"{RECORD} has"):
        fetch_set("mine", a_set(server.address), tmp_path)
    published = SetFile(name="img01.png", address=server.address + "/img01.png", sha256="0" * 64)
    with pytest.raises(SourceError, match=r"public_sets\.yaml has 0000"):
        fetch_set("mine", a_set(server.address, files=(published,), sources=()), tmp_path)


def test_a_file_that_is_gone_from_the_server_is_named(server, tmp_path):
    """An answer of 404 is the reason given, and the other files of the set are fetched nevertheless."""
    gone = SetFile(name="gone.zip", address=f"{server.address}/gone.zip")
    with pytest.raises(SourceError, match=r"gone\.zip: 404"):
        fetch_set("mine", a_set(server.address, files=(gone, *a_set(server.address).files)), tmp_path)
    assert (tmp_path / "set.zip").is_file()


def test_an_unknown_set_is_refused_with_the_nearest():
    """A mistyped name gets the known one."""
    result = CliRunner().invoke(main, ["data", "fetch", "kodak"])
    assert result.exit_code != 0
    assert "kodak24" in str(result.exception) + result.output
