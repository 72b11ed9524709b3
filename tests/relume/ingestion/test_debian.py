"""Photographs from Debian packages: the catalogue, and what is taken of packages, sound and broken."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.curation.overlap import find_overlaps
from relume.errors import SourceError
from relume.files import write_bytes
from relume.images import read_image
from relume.ingestion.debian import TABLE, DebianPhotograph, fetch, read_catalogue
from relume.ingestion.sources import IMAGE_SUFFIXES, PACKAGES, open_source

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds and reads Debian packages")
# By the seed in params.yaml, with the photographs inside Python packages.
HELD_OUT_BY_THE_DEMO = (
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "skimage/data/coffee.png",
    "sklearn/datasets/images/china.jpg",
    "skimage/data/chelsea.png",
)
SHARED = Path(__file__).parents[4] / "shared" / "data" / "test"


def photograph(path: str, data: bytes, **changes: str) -> DebianPhotograph:
    """What a catalogue says of a file in a package named walls."""
    about = {
        "package": "walls",
        "version": "1.0",
        "path": path,
        "sha256": hashlib.sha256(data).hexdigest(),
        "title": "Sea",
        "author": "Ada",
        "licence": "CC-BY-4.0",
        "source": "https://example.org/sea",
        "evidence": "debian/copyright",
    }
    return DebianPhotograph(**about | changes)


def build(folder: Path, contents: dict[str, bytes], package: str = "walls") -> Path:
    """Builds a real package with some files and gives its path."""
    tree = folder / f"tree-{package}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {package}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: d\n"
    (tree / "DEBIAN" / "control").write_text(control)
    for name, data in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    deb = folder / f"{package}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True, capture_output=True)
    return deb


def ar(members: dict[str, bytes]) -> bytes:
    """An archive such as a package is, made by hand because dpkg-deb builds no hostile one."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        parts += [header.encode(), data, b"\n" * (len(data) % 2)]
    return b"".join(parts)


def fake_apt(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program named apt-get before the real one; it is called as apt does it, in the folder for the package."""
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_catalogue_names_each_file_once_with_its_author_and_where_the_licence_is_stated():
    """Names and hashes are unique, paths stay inside the package, and no cell breaks the table."""
    catalogue = read_catalogue()
    assert len(catalogue) > 30
    assert len({item.file for item in catalogue}) == len({item.sha256 for item in catalogue}) == len(catalogue)
    for item in catalogue:
        assert not item.path.startswith("/")
        assert ".." not in item.path.split("/")
        assert item.file.endswith(IMAGE_SUFFIXES)
        assert item.author
        assert item.source.startswith("http")
        assert "|" not in item.evidence + item.title + item.author


@pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "GPL-2+", "CC-BY-NC-4.0", "CC-BY-ND-4.0", ""])
def test_the_catalogue_takes_no_licence_that_binds_the_weights(licence):
    """Licences that ask for the same licence, or forbid sale or changes, are refused."""
    with pytest.raises(ValueError, match="licence"):
        photograph("sea.jpg", b"sea", licence=licence)


def test_an_attribution_names_title_author_licence_and_source():
    """That is what CC BY asks for."""
    assert photograph("sea.jpg", b"sea").attribution == (
        '"Sea" by Ada, [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), <https://example.org/sea>'
    )


@needs_dpkg
def test_takes_the_listed_files_of_a_package_and_tells_their_licences(tmp_path):
    """A listed photograph comes out byte for byte, with its line in the table; what is not listed stays inside."""
    build(tmp_path, {"usr/share/Blue sea.jpg": b"sea", "usr/share/logo.jpg": b"logo"})
    sea = photograph("usr/share/Blue sea.jpg", b"sea")
    seen = []
    fetched = fetch(
        tmp_path / "out", photographs=[sea], packages=tmp_path, progress=lambda *counts: seen.append(counts)
    )
    assert fetched.present == (sea,)
    assert fetched.left_out == ()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"walls-Blue-sea.jpg", TABLE}
    assert (tmp_path / "out" / "walls-Blue-sea.jpg").read_bytes() == b"sea"
    assert "| walls-Blue-sea.jpg | walls 1.0 | Sea, by Ada |" in (tmp_path / "out" / TABLE).read_text()
    assert seen == [(1, 1)]


@needs_dpkg
def test_a_file_with_another_hash_is_left_out(tmp_path):
    """Another version of a package can hold another image under the same name, whose licence nobody looked at."""
    build(tmp_path, {"sea.jpg": b"another sea", "hill.jpg": b"hill"})
    sea, hill, gone = photograph("sea.jpg", b"sea"), photograph("hill.jpg", b"hill"), photograph("gone.jpg", b"gone")
    fetched = fetch(tmp_path / "out", photographs=[sea, hill, gone], packages=tmp_path)
    assert fetched.present == (hill,)
    assert fetched.left_out == ((sea, "its hash is not that of the catalogue"), (gone, "it is not in the package"))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {hill.file, TABLE}
    assert sea.file not in (tmp_path / "out" / TABLE).read_text()


@needs_dpkg
def test_only_missing_photographs_are_fetched_again(tmp_path):
    """A second call needs no package for what is there, and replaces a file that was cut short."""
    build(tmp_path, {"sea.jpg": b"sea"})
    build(tmp_path, {"hill.jpg": b"hill"}, package="hills")
    both = [photograph("sea.jpg", b"sea"), photograph("hill.jpg", b"hill", package="hills")]
    fetch(tmp_path / "out", photographs=both, packages=tmp_path)
    (tmp_path / "walls_1.0_all.deb").unlink()
    (tmp_path / "out" / both[1].file).write_bytes(b"hi")
    assert fetch(tmp_path / "out", photographs=both, packages=tmp_path).present == tuple(both)
    assert (tmp_path / "out" / both[1].file).read_bytes() == b"hill"


@needs_dpkg
def test_names_that_lead_out_of_a_package_write_nothing(tmp_path):
    """A path upwards and a link, even under listed names, give nothing, and nothing is written anywhere."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("../escape.jpg", "./escape.jpg/../../escape.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(b"escape")
            archive.addfile(entry, io.BytesIO(b"escape"))
        link = tarfile.TarInfo("./up.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "walls_1.0_all.deb").write_bytes(
        ar({"debian-binary": b"2.0\n", "control.tar": bytes(10240), "data.tar": data.getvalue()})
    )
    up = photograph("../escape.jpg", b"something else")
    link = photograph("up.jpg", Path("/etc/passwd").read_bytes())
    with pytest.raises(SourceError, match="its hash is not that of the catalogue; it is not in the package"):
        fetch(tmp_path / "out", photographs=[up, link], packages=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"walls_1.0_all.deb"}


@needs_dpkg
def test_an_interrupted_download_leaves_nothing_and_is_repeated(tmp_path, monkeypatch):
    """apt leaves half a package when the line breaks: it is not read, and the next call fetches the whole."""
    deb = build(tmp_path, {"sea.jpg": os.urandom(100_000)})
    data = (tmp_path / "tree-walls" / "sea.jpg").read_bytes()
    broken = f'head -c 50000 {deb} > walls_1.0_all.deb; echo "E: Connection reset" >&2; exit 100'
    fake_apt(tmp_path / "broken", broken, monkeypatch)
    with pytest.raises(SourceError, match="E: Connection reset"):
        fetch(tmp_path / "out", photographs=[photograph("sea.jpg", data)])
    assert not (tmp_path / "out").exists()
    fake_apt(tmp_path / "whole", f"cp {deb} .", monkeypatch)
    assert fetch(tmp_path / "out", photographs=[photograph("sea.jpg", data)]).left_out == ()


@needs_dpkg
def test_a_damaged_package_is_told(tmp_path):
    """Half a package among those of a folder is named, and the others are taken."""
    deb = build(tmp_path, {"sea.jpg": os.urandom(100_000)})
    deb.write_bytes(deb.read_bytes()[:50_000])
    build(tmp_path, {"hill.jpg": b"hill"}, package="hills")
    sea, hill = photograph("sea.jpg", b"sea"), photograph("hill.jpg", b"hill", package="hills")
    fetched = fetch(tmp_path / "out", photographs=[sea, hill], packages=tmp_path)
    assert fetched.left_out == ((sea, "walls_1.0_all.deb is damaged"),)


@needs_dpkg
def test_takes_the_version_that_apt_offers_when_the_wanted_one_is_gone(tmp_path, monkeypatch):
    """Mirrors drop old versions; the hash decides whether the file is still the same."""
    deb = build(tmp_path, {"sea.jpg": b"sea"})
    script = f'case "$3" in *=*) echo "E: Version not found" >&2; exit 100;; esac; cp {deb} walls_2.0_all.deb'
    fake_apt(tmp_path / "apt", script, monkeypatch)
    assert fetch(tmp_path / "out", photographs=[photograph("sea.jpg", b"sea")]).left_out == ()


def test_says_what_to_do_without_apt(tmp_path, monkeypatch):
    """On a system without apt the message says where the photographs can be fetched."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="fetch them on Debian or Ubuntu"):
        fetch(tmp_path / "out")


def test_the_command_says_what_was_fetched_and_what_was_left_out(tmp_path, monkeypatch):
    """Without one of the packages the others are counted, and each photograph that lacks is named with the reason."""
    catalogue = read_catalogue()
    for item in catalogue[1:]:  # there already, as far as the hash is asked
        (tmp_path / item.file).write_bytes(b"")
    monkeypatch.setattr("relume.ingestion.debian.sha256_file", {tmp_path / i.file: i.sha256 for i in catalogue}.get)
    fake_apt(tmp_path / "apt", 'echo "E: Unable to locate package" >&2; exit 100', monkeypatch)
    result = CliRunner().invoke(main, ["data", "fetch", "debian-photographs", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}: {len(catalogue) - 1} photographs" in result.output
    assert f"note: {catalogue[0].file} was left out: apt-get download" in result.output
    assert "E: Unable to locate package" in result.output


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="downloads packages with apt")
def test_the_real_packages_hold_the_catalogued_photographs_and_no_test_image(tmp_path):
    """Every catalogued photograph is fetched and decodes in colour, and none shows what a test image shows."""
    fetched = fetch(tmp_path)
    assert fetched.left_out == ()
    photographs = [tmp_path / item.file for item in fetched.present]
    for path in photographs:
        pixels = read_image(path).pixels
        assert min(pixels.shape[:2]) >= 512
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 1 / 255
    tests = [tmp_path / "held_out" / name.replace("/", "-") for name in HELD_OUT_BY_THE_DEMO]
    for name, path in zip(HELD_OUT_BY_THE_DEMO, tests, strict=True):
        write_bytes(path, open_source(PACKAGES + name))
    tests += [path for path in sorted(SHARED.rglob("*")) if path.suffix in IMAGE_SUFFIXES]
    assert find_overlaps(photographs, tests) == []
