"""The commit of a run: the state of the working tree, with the user's branch, index and files left as they are."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from relume.errors import UserError
from relume.home import require_usable
from relume.ingestion.lists import LIST

REF = "refs/relume/runs"
MOST_UNTRACKED_MB = 50.0  # of a run's commit, which git keeps for weeks


class RepositoryError(UserError):
    """The checkout is not one that git can make a commit of."""


def git(root: Path, *arguments: str, index: Path | None = None) -> str:
    """Runs one git command in `root` and gives its output without the last line break.

    Args:
        root: The checkout.
        *arguments: The command and its arguments.
        index: Index file to use in place of the repository's own.

    Raises:
        RepositoryError: git is missing or refuses.
    """
    # A hook of the user's that called us may have set GIT_DIR and GIT_INDEX_FILE of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for role in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{role}_NAME"] = "relume"
        environment[f"GIT_{role}_EMAIL"] = "relume@localhost"
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    # Hooks are the user's for the user's own commits.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, errors="surrogateescape"
        )
    except FileNotFoundError:
        raise RepositoryError(
            "git is not installed",
            why="every run records the working tree as a git commit",
            next_step="sudo apt-get install git",
        ) from None
    if done.returncode:
        raise RepositoryError(
            f"`git {' '.join(arguments)}` failed", where=root, why=done.stderr.strip(), next_step="run `git status`"
        )
    return done.stdout.rstrip("\n")


def _head(root: Path) -> str | None:
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except RepositoryError:
        return None


def check_repository(root: Path) -> None:
    """Refuses a folder that is not the top of a git working tree.

    Raises:
        ConfigError: Its path has a character that other programs take for one of theirs.
        RepositoryError: It is not in a git repository, or is below the top of one.
    """
    require_usable(root.resolve(), next_step="move the checkout to another folder")
    try:
        top = git(root, "rev-parse", "--show-toplevel")
    except RepositoryError as error:
        if "not a git repository" not in str(error):
            raise
        raise RepositoryError(
            "The folder is not in a git repository",
            where=root,
            why="every run records the working tree as a git commit",
            next_step=f"run `git init` in {root}",
        ) from None
    if Path(top).resolve() != root.resolve():
        raise RepositoryError("The folder is not the top of its git repository", where=root, next_step=f"cd {top}")


def commit_run(repository: str | Path, run: str, *, own_list: Path | None = None) -> str:
    """Gives the commit of a run, made of the working tree as it is now, and keeps it at refs/relume/runs/<run>.

    Tracked changes and untracked files that are not ignored are committed through a temporary index on
    top of HEAD; with nothing to commit the run's commit is HEAD. The user's branch, index and working
    tree stay as they are. The commit of a run is made once: a retried run gets the commit it had.

    Args:
        repository: The top of a git working tree; it may have no commit yet.
        run: Name of the run.
        own_list: The user's own list of sources, which the commit carries as sources.json: private clones see it, the
            working tree and the branches do not.

    Returns:
        The full hash of the commit.

    Raises:
        RepositoryError: The folder is not the top of a git working tree, or has large files that git does not know.
    """
    root = Path(repository).resolve()
    check_repository(root)
    ref = f"{REF}/{run}"
    if existing := git(root, "for-each-ref", "--format=%(objectname)", ref):
        return existing
    _require_small(root)
    head = _head(root)
    with tempfile.TemporaryDirectory(prefix="relume-index-") as folder:
        index = Path(folder) / "index"
        own = root / git(root, "rev-parse", "--git-path", "index")
        if own.is_file():
            shutil.copyfile(own, index)  # its stat data saves hashing every file again
        git(root, "add", "--all", index=index)
        if own_list is not None:
            blob = git(root, "hash-object", "-w", "--no-filters", str(own_list))
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{LIST}", index=index)
        tree = git(root, "write-tree", index=index)
    if head is not None and tree == git(root, "rev-parse", f"{head}^{{tree}}"):
        commit = head
    else:
        parents = ["-p", head] if head else []
        commit = git(root, "commit-tree", tree, *parents, "-m", f"The working tree of run {run}")
    git(root, "update-ref", ref, commit)
    return commit


def _require_small(root: Path) -> None:
    """Refuses untracked files that would make the repository grow with every run that they differ in."""
    names = git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")[:-1]
    sizes = {name: os.lstat(root / name).st_size / 1e6 for name in names}
    if sum(sizes.values()) > MOST_UNTRACKED_MB:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        raise RepositoryError(
            f"Untracked files of {sum(sizes.values()):.0f} MB would become part of the run's commit",
            where=root,
            why=f"at most {MOST_UNTRACKED_MB:.0f} MB may; the largest: "
            + ", ".join(f"{name} ({sizes[name]:.0f} MB)" for name in largest),
            next_step="name them in .gitignore, or move them out of the checkout",
        )


def forget_old_runs(root: Path, home: Path, keep: int) -> None:
    """Removes the logs of all runs but the newest, the refs that hold their commits, and what git held by them alone.

    Call it only while holding the driver's lock. The commits of packages, which have refs of their own and no
    folder, stay. A run that is retried after that uses the working tree of that moment.

    Args:
        root: The top of the git working tree.
        home: RELUME_HOME; the folders below `runs` are those of the runs, by their names.
        keep: How many stay, by the time that they were last started.
    """
    folders = old_runs(home, keep)
    for folder in folders:
        # The ref first: the next call finds a folder that a crash left.
        git(root, "update-ref", "-d", f"{REF}/{folder.name}")
        shutil.rmtree(folder)
    if folders:
        git(root, "prune", "--expire=2.weeks.ago")  # the time that git gives what nothing refers to


def old_runs(home: Path, keep: int) -> list[Path]:
    """The folders of all runs but the newest, newest first."""
    folders = [folder for folder in (home / "runs").glob("*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)[keep:]


def clone_commit(root: Path, commit: str, folder: Path) -> None:
    """Makes a private clone at a commit, which shares the objects of the repository.

    Not by `git clone`, which copies from a shallow repository and then lacks the commits that are on no branch.

    Args:
        root: The repository; it must stay while the clone is used.
        commit: Any commit in it, on a branch or not.
        folder: Where the clone goes; it must not exist.
    """
    git(root, "init", "--quiet", "--template=", str(folder))
    shared = [(root / git(root, "rev-parse", "--git-path", name)).resolve() for name in ("objects", "shallow")]
    alternates = folder / ".git" / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{shared[0]}\n", encoding="utf-8", errors="surrogateescape")
    if shared[1].is_file():
        shutil.copyfile(shared[1], folder / ".git" / "shallow")
    git(folder, "checkout", "--quiet", "--detach", commit)
