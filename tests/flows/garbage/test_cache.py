"""What leaves DVC's cache, against a model of who names what, and against DVC itself."""

import json
import os
import subprocess

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.garbage.cache import unused_files
from flows.graph import read_store

OLD, YOUNG, BEFORE = 1e9, 3e9, 2e9
FILES = [f"{number:032x}" for number in range(1, 13)]
FOLDERS = [f"{number:032x}.dir" for number in range(101, 105)]
PLACES = [
    "branch",
    "tag",
    "run",
    "package",
    "deleted branch",
    "forgotten run",
    "index",
    "working tree",
    "moved",
    "merged",
]

histories = st.lists(
    st.tuples(st.sampled_from(PLACES), st.lists(st.sampled_from(FILES + FOLDERS), max_size=3)), max_size=5
)


def git(root, *command, text=None):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    return subprocess.run(
        ["git", *identity, *command], cwd=root, input=text, check=True, capture_output=True, text=True
    ).stdout.strip()


def lock_of(names):
    return json.dumps({"stages": {"s": {"outs": [{"path": name, "md5": name} for name in names]}}})


def commit(root, names, path="dvc.lock", parents=()):
    """A commit with this one lock, which no branch holds."""
    blob = git(root, "hash-object", "-w", "--stdin", text=lock_of(names))
    tree = git(root, "mktree", text=f"100644 blob {blob}\t{path}\n")
    for folder in reversed(path.split("/")[:-1]):
        tree = git(root, "mktree", text=f"040000 tree {tree}\t{folder}\n")
    return git(root, "commit-tree", tree, *(word for parent in parents for word in ("-p", parent)), "-m", "c")


def put(root, place, number, names):
    """Lets a place name hashes; gives those that it keeps."""
    if place in ("working tree", "index"):
        (root / "dvc.lock").write_text(lock_of(names))
        if place == "index":
            git(root, "add", "dvc.lock")
            (root / "dvc.lock").unlink()
        return
    found = commit(root, names)
    refs = {
        "branch": f"refs/heads/b{number}",
        "tag": f"refs/tags/t{number}",
        "run": f"refs/relume/runs/r{number}",
        "package": f"refs/relume/runs/package-{number}",
        "forgotten run": f"refs/relume/runs/old{number}",
    }
    if place == "deleted branch":  # the reflog of HEAD still knows it
        git(root, "update-ref", "HEAD", found)
        git(root, "update-ref", "HEAD", commit(root, []))
    elif place == "moved":  # the lock was changed since
        git(root, "update-ref", f"refs/heads/b{number}", commit(root, [], parents=[found]))
    elif place == "merged":  # by a merge that took nothing of it
        git(root, "update-ref", f"refs/heads/b{number}", commit(root, [], parents=[commit(root, []), found]))
    else:
        git(root, "update-ref", refs[place], found)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=histories,
    members=st.lists(st.lists(st.sampled_from(FILES), max_size=3), min_size=4, max_size=4),
    young=st.sets(st.sampled_from(FILES + FOLDERS), max_size=2),
    results=st.lists(st.tuples(st.lists(st.sampled_from(FILES + FOLDERS), max_size=2), st.booleans()), max_size=3),
)
def test_exactly_what_nothing_names_leaves(tmp_path_factory, history, members, young, results):
    """Branches, tags, runs, packages, the reflog, index, working tree and young results keep what they name."""
    root = tmp_path_factory.mktemp("repository")
    git(root, "init", "--quiet", "--initial-branch", "main")
    cache = root / ".dvc" / "cache"
    holds = dict(zip(FOLDERS, members, strict=True))
    for name in FILES + FOLDERS:
        path = cache / "files" / "md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"md5": one, "relpath": f"f{n}"} for n, one in enumerate(holds.get(name, []))]))
        os.utime(path, (OLD, YOUNG if name in young else OLD))
    kept = set(young)
    # Of what stands in one place alone, the last counts.
    last = {place: number for number, (place, _) in enumerate(history) if place in ("index", "working tree")}
    for number, (place, names) in enumerate(history):
        if last.get(place, number) == number and not (place == "index" and "working tree" in last):
            put(root, place, number, names)
            kept |= set(names) if place != "forgotten run" else set()
    entries = {}
    for number, (names, is_young) in enumerate(results):
        path = cache / "runs" / "ab" / f"key{number}" / "value"
        path.parent.mkdir(parents=True)
        path.write_text(lock_of(names))
        os.utime(path, (OLD, YOUNG if is_young else OLD))
        entries[path] = (set(names), is_young)
        kept |= set(names) if is_young else set()
    # A young folder that nothing names keeps itself alone: its files were written with it.
    kept |= {member for name in kept - (set(young) - named(history, results)) for member in holds.get(name, [])}
    found = unused_files(root, cache, without=["refs/relume/runs/old*"], before=BEFORE)
    objects = {path.parent.name + path.name for path in found if path.is_relative_to(cache / "files")}
    assert objects == set(FILES + FOLDERS) - kept
    assert {path for path in found if path.is_relative_to(cache / "runs")} == {
        path for path, (names, is_young) in entries.items() if not is_young and names & objects
    }


def named(history, results):
    by_history = {name for place, names in history if place != "forgotten run" for name in names}
    return by_history | {name for names, is_young in results if is_young for name in names}


def test_every_commit_can_be_checked_out_after_it(toy):
    """With DVC's own cache: two commits, a result that only a run's ref names, and one that nothing does."""
    for width, keep in ((1, True), (3, False), (4, False), (5, True)):
        toy.write("params.yaml", (toy.root / "params.yaml").read_text().replace("{width: 2}", f"{{width: {width}}}"))
        toy.write("sources.json", json.dumps({"sources": [str(width)], "files": []}))
        toy.write(
            "components/first/__main__.py",
            f'from components.work import work\nwork("first {width}", [], "data/first")\n',
        )
        toy.shell("dvc", "repro")
        if keep:
            toy.commit()
        elif width == 4:
            put(toy.root, "run", 1, [])
            tree = toy.shell("git", "stash", "create").stdout.strip()
            toy.shell("git", "update-ref", "refs/relume/runs/kept", tree)
    cache = read_store(toy.root).cache
    before = {path for path in (cache / "files").rglob("*") if path.is_file()}
    found = unused_files(toy.root, cache, without=[], before=4e9)
    for path in found:
        path.unlink()
    assert 0 < len(before - {path for path in (cache / "files").rglob("*") if path.is_file()}) < len(before)
    for revision in ("main", "main~1", "refs/relume/runs/kept"):
        toy.shell("git", "checkout", "--quiet", "--force", "--detach", revision)
        toy.shell("dvc", "checkout", "--force")
        assert toy.shell("dvc", "data", "status", "--json").stdout.strip() == "{}"
    assert unused_files(toy.root, cache, without=[], before=4e9) == []
