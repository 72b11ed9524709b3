import os
import subprocess

import pytest

from flows.run_commit import RepositoryError, clone_commit, commit_run, forget_old_runs, git


def state_of(toy):
    """What must stay as it is: branch, HEAD, index, and what git sees in the working tree."""
    index = (toy.root / ".git" / "index").read_bytes()
    return toy.shell("git", "status", "--porcelain", "--branch").stdout, toy.shell("git", "stash", "list").stdout, index


def show(toy, commit, path):
    """The text of a file in a commit."""
    return toy.shell("git", "show", f"{commit}:{path}").stdout


def test_a_clean_tree_runs_as_head(toy):
    """With nothing to commit the run's commit is HEAD, and its ref keeps it."""
    head = toy.shell("git", "rev-parse", "HEAD").stdout.strip()
    assert commit_run(toy.root, "r1") == head
    assert toy.shell("git", "rev-parse", "refs/relume/runs/r1").stdout.strip() == head


def test_edits_staged_files_new_files_and_deletions_are_in_the_commit(toy):
    """The commit holds the working tree: edited, staged, new and deleted files, ignored ones not."""
    toy.write("params.yaml", "first: {}\n")
    toy.write("staged.py", "staged = 1\n")
    toy.shell("git", "add", "staged.py")
    toy.write("staged.py", "staged = 2\n")
    toy.write("new folder/new.py", "new = 1\n")
    toy.write("data/ignored.txt", "ignored\n")
    (toy.root / "sources.json").unlink()
    commit = commit_run(toy.root, "r1")
    assert show(toy, commit, "params.yaml") == "first: {}\n"
    assert show(toy, commit, "staged.py") == "staged = 2\n"
    assert show(toy, commit, "new folder/new.py") == "new = 1\n"
    names = toy.shell("git", "ls-tree", "-r", "--name-only", commit).stdout
    assert "sources.json" not in names
    assert "ignored" not in names
    assert toy.shell("git", "rev-parse", f"{commit}^").stdout == toy.shell("git", "rev-parse", "HEAD").stdout


def test_branch_index_and_working_tree_are_not_touched(toy):
    """What the user had staged, edited and left untracked is exactly as before."""
    toy.write("params.yaml", "first: {}\n")
    toy.write("staged.py", "staged = 1\n")
    toy.shell("git", "add", "staged.py")
    toy.write("staged.py", "staged = 2\n")
    toy.write("new.py", "new = 1\n")
    toy.shell("git", "status")  # refreshes the stat data of the index
    before = state_of(toy)
    commit_run(toy.root, "r1")
    assert state_of(toy) == before


def test_the_identity_is_relumes_and_no_hook_runs(toy):
    """The user's name, signing key and hooks play no part."""
    toy.shell("git", "config", "commit.gpgSign", "true")
    toy.shell("git", "config", "user.signingKey", "missing")
    for hook in ("pre-commit", "commit-msg", "reference-transaction"):
        toy.write(f".git/hooks/{hook}", "#!/bin/sh\nexit 1\n")
        (toy.root / ".git/hooks" / hook).chmod(0o755)
    toy.write("new.py", "new = 1\n")
    commit = commit_run(toy.root, "r1")
    assert (
        toy.shell("git", "log", "-1", "--format=%an <%ae> %cn", commit).stdout == "relume <relume@localhost> relume\n"
    )


def test_a_retried_run_gets_the_commit_it_had(toy):
    """A run's commit is made once, whatever was edited since."""
    first = commit_run(toy.root, "r1")
    toy.write("new.py", "new = 1\n")
    assert commit_run(toy.root, "r1") == first
    assert commit_run(toy.root, "r2") != first


def test_a_repository_without_a_commit_works(tmp_path):
    """Before the first commit the run's commit has no parent."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "a.py").write_text("a = 1\n")
    commit = commit_run(tmp_path, "r1")
    log = subprocess.run(["git", "-C", tmp_path, "log", "--format=%P|%s", commit], capture_output=True, text=True)
    assert log.stdout == "|The working tree of run r1\n"


def test_a_folder_outside_of_git_is_refused(tmp_path):
    """The error says that it is no repository and how to make one."""
    with pytest.raises(RepositoryError, match=r"not in a git repository(.|\n)*git init"):
        commit_run(tmp_path, "r1")


def test_a_folder_below_the_top_is_refused(toy):
    """The error names the top."""
    with pytest.raises(RepositoryError, match=f"cd {toy.root}"):
        commit_run(toy.root / "components", "r1")


def test_the_newest_runs_are_kept(toy):
    """Of four runs and a package two runs stay, logs and refs, and the package's ref; asked again, nothing changes."""
    for age, name in enumerate(("c", "a", "d", "b")):
        folder = toy.home / "runs" / name
        folder.mkdir(parents=True)
        (folder / "first.log").write_text("hello\n")
        os.utime(folder, (1e9 - age, 1e9 - age))
        commit_run(toy.root, name)
    commit_run(toy.root, "package-00ff")
    (toy.home / "runs" / "driver.lock").touch()
    toy.shell("git", "update-ref", "-d", "refs/relume/runs/d")  # as a kill between ref and folder leaves it
    for _ in range(2):
        forget_old_runs(toy.root, toy.home, keep=2)
        refs = toy.shell("git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/relume/runs").stdout.split()
        assert refs == ["a", "c", "package-00ff"]
        assert sorted(path.name for path in (toy.home / "runs").iterdir()) == ["a", "c", "driver.lock"]
        assert (toy.home / "runs" / "a" / "first.log").read_text() == "hello\n"


def test_the_users_own_list_is_in_the_runs_commit_alone(toy):
    """The run's commit carries the home's list as sources.json; git's status, history and the working tree do not."""
    toy.shell("git", "status")  # refreshes the stat data of the index
    before = state_of(toy)
    own = toy.home / "sources.json"
    own.write_text('{"files": [], "sources": ["file:///private"]}\n')
    commit = commit_run(toy.root, "r1", own_list=own)
    assert show(toy, commit, "sources.json") == own.read_text()
    assert state_of(toy) == before
    assert "private" not in (toy.root / "sources.json").read_text()
    assert toy.shell("git", "log", "--branches", "--format=%H").stdout.split() == [
        toy.shell("git", "rev-parse", "HEAD").stdout.strip()
    ]


def test_a_shallow_clone_runs_again_and_again(toy, tmp_path):
    """The commits of its runs are on no branch; a private clone of each has its files."""
    toy.write("x", "0")
    toy.commit()
    root = tmp_path / "shallow"
    toy.shell("git", "clone", "--quiet", "--depth", "1", f"file://{toy.root}", str(root))
    for run in ("one", "two"):
        (root / "x").write_text(run)
        clone_commit(root, commit_run(root, run), tmp_path / run)
        assert (tmp_path / run / "x").read_text() == run
        assert git(tmp_path / run, "status", "--short") == ""


def test_a_linked_working_tree_is_cloned_as_well(toy, tmp_path):
    """The objects of a working tree of `git worktree` are in another folder than its own."""
    root = tmp_path / "linked"
    toy.shell("git", "worktree", "add", "--quiet", str(root))
    (root / "x").write_text("new")
    clone_commit(root, commit_run(root, "r1"), tmp_path / "clone")
    assert (tmp_path / "clone" / "x").read_text() == "new"


def test_large_untracked_files_are_refused(toy, monkeypatch):
    """They would stay in git for weeks: the largest are named with what to do, and nothing was added."""
    (toy.root / "notes.txt").write_text("small")
    with open(toy.root / "weights.bin", "wb") as file:
        file.truncate(60_000_000)
    with pytest.raises(RepositoryError, match=r"60 MB(?s:.*)weights\.bin \(60 MB\), notes(?s:.*)\.gitignore"):
        commit_run(toy.root, "r1")
    assert git(toy.root, "for-each-ref", "refs/relume") == ""
    toy.write(".gitignore", "*.bin\n")
    commit_run(toy.root, "r1")


def test_what_only_old_runs_held_leaves_git(toy):
    """After two weeks git has no trace of the files of a run that was forgotten."""
    (toy.root / "large.txt").write_text("once")
    commit = commit_run(toy.root, "old")
    (toy.root / "large.txt").unlink()
    for age, name in enumerate(("new", "old")):
        folder = toy.home / "runs" / name
        folder.mkdir(parents=True)
        os.utime(folder, (1e9 - age, 1e9 - age))
    for path in (toy.root / ".git" / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))
    forget_old_runs(toy.root, toy.home, keep=1)
    with pytest.raises(RepositoryError):
        git(toy.root, "cat-file", "-e", commit)
