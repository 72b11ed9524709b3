"""Which code computed something that is kept, so that other code computes it again."""

import functools
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path


@functools.cache
def code_version(packages: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """A hash of all code and parameters in some of our packages, and of the versions of libraries.

    Args:
        packages: Names such as `relume.images`; all their files count, so that none is forgotten.
        libraries: Names of distributions; one that is not installed counts as such.
    """
    digest = hashlib.sha256()
    for package in packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        for path in sorted(Path(spec.submodule_search_locations[0]).iterdir()):
            if path.suffix in (".py", ".npz", ".yaml"):
                digest.update(f"{package}/{path.name}\0".encode() + path.read_bytes())
    for library in libraries:
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"{library}=={version}\0".encode())
    return digest.hexdigest()
