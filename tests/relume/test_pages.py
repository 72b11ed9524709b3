"""Pages that other tools generate, opened in a browser that has no network."""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect

from relume.pages import make_offline

ROOT = Path(__file__).parents[2]


def test_plots(offline_page, tmp_path):
    """The page of `dvc plots show`, by the template that the checkout's DVC is set to, draws a curve."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    shutil.copyfile(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    for name in ("infra", "relume"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "curve.csv").write_text("step,psnr\n1,20\n2,25\n3,27\n")
    shown = [sys.executable, "-m", "dvc", "plots", "show", "curve.csv", "-x", "step", "-y", "psnr"]
    subprocess.run(shown, cwd=tmp_path, check=True, capture_output=True)
    offline_page.goto((tmp_path / "dvc_plots" / "index.html").as_uri())
    expect(offline_page.locator(".vega-embed canvas, .vega-embed svg").first).to_be_visible()


def test_what_is_not_here_is_left_out(tmp_path):
    """Pages below the top find their scripts; an image from elsewhere, and a script that is not here, are removed."""
    page = tmp_path / "a" / "b.html"
    page.parent.mkdir()
    page.write_text(
        '<img alt="logo" src="https://elsewhere.example/logo.png?d=2026"/>'
        '<script src="https://cdn.jsdelivr.net/npm/vega@5" integrity="x" crossorigin="anonymous"></script>'
        '<script src="//elsewhere.example/new.js"></script><a href="https://relume.example">link</a>'
    )
    make_offline(tmp_path)
    assert page.read_text() == (
        '<script src="../offline/vega.min.js"></script><script></script><a href="https://relume.example">link</a>'
    )
    assert (tmp_path / "offline" / "vega.min.js").is_file()
