"""Where results may be written: never over anything but an earlier result."""

import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.errors import ConfigError
from relume.evaluation.benchmark.output import check_output
from relume.evaluation.benchmark.run import Plan, run
from relume.evaluation.benchmark.sets import open_set


def evaluate(*arguments):
    """The command line, without a model: the inputs alone are measured."""
    return CliRunner().invoke(main, ["evaluate", "--protocol", "awgn-clipped:25", *map(str, arguments)])


def files(folder):
    """All files below a folder, by name, with their bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("held", [["holiday.jpg"], ["results.csv"], ["results.csv", "summary.json", "notes.txt"]])
def test_a_folder_of_something_else_is_refused_and_stays(own_images, tmp_path, held):
    """Exit code 2, before the set, which is not there, is looked for; every file is what it was."""
    out = tmp_path / "mine"
    out.mkdir()
    for name in held:
        (out / name).write_text(name)
    before = files(tmp_path)
    refused = evaluate("--set", own_images, "--set", tmp_path / "missing", "-o", out)
    assert refused.exit_code == 2
    assert "is not an earlier result" in refused.output
    assert files(tmp_path) == before


@pytest.mark.parametrize("out", [".", "..", "sets", "sets/own", "models", "models/a", "data", "estimators"])
def test_what_is_read_is_never_replaced(tmp_path, monkeypatch, out):
    """The current folder, sets, models, data and what is above them are refused, even without a file in them."""
    for name in ("sets/own", "models/a", "data", "estimators/e"):
        (tmp_path / "here" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    refused = evaluate("models/a", "--set", "sets/own", "--data", "data", "--estimator", "estimators/e", "-o", out)
    assert refused.exit_code == 2
    assert "contains what is read" in refused.output
    assert (tmp_path / "here" / out).is_dir()


def test_a_file_is_refused(tmp_path):
    """It would be deleted like a folder."""
    (tmp_path / "results").write_text("mine")
    with pytest.raises(ConfigError, match="it is a file"):
        check_output(tmp_path / "results")


def test_new_empty_and_earlier_are_replaced(own_images, tmp_path):
    """An absent folder, an empty one, and one of an earlier result with its images."""
    (tmp_path / "out").mkdir()
    for seed in (0, 1):
        result = evaluate("--set", own_images, "-o", tmp_path / "out", "--seed", seed)
        assert result.exit_code == 0, result.output
    (tmp_path / "out" / "pictures").mkdir()
    earlier = (tmp_path / "out" / "results.csv").read_bytes()
    assert evaluate("--set", own_images, "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "results.csv").read_bytes() != earlier


def test_a_plan_that_is_run_by_hand_replaces_nothing_either(own_images):
    """Also without the command line the folder of a set is no output."""
    with pytest.raises(ConfigError, match="contains what is read"):
        run(Plan(sets=[open_set(str(own_images), None)], systems=[]), own_images, settings={})
    assert len(list(own_images.glob("*.png"))) == 3
