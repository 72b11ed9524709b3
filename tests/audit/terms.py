"""The terms of every package that relume needs at runtime, as the packages themselves state them."""

import importlib.metadata
import re

from packaging.requirements import Requirement

# What images hold. Of what users choose beside it, `formats` has a package under the GPL, and that of `bm3d` is not for
# commercial use.
DISTRIBUTED = "relume[dask,kubernetes,postgres]"
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|Zope|ZPL|0BSD|Zlib|CC0|CNRI|BSL|CMU|LLVM|WITH|"
    r"OSI Approved"
)
# Weak copyleft: of the package's own files alone.
FILES_ALONE = re.compile(r"MPL|Mozilla")
# What a package states too little of, or offers beside other terms: what its licence file says.
READ = {
    "asyncssh": "EPL-2.0 or GPL-2.0-or-later: taken under the EPL, which is of its own files alone",
    "dulwich": "Apache-2.0 or GPL-2.0-or-later: taken under Apache-2.0",
    "grandalf": "EPL-1.0 or GPL-2.0: taken under the EPL, which is of its own files alone",
    "huey": "MIT",
    "psycopg2-binary": "LGPL-3.0: a library of its own, replaceable; only with the extra `postgres`",
    "pygit2": "GPL-2.0 with the exception that it may be linked into programs of other terms",
    "sigstore-models": "MIT",
    "text-unidecode": "Artistic License or GPL: taken under the Artistic License",
}


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(*roots: str) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that some requirements, such as `relume[postgres]`, need, themselves left out."""
    found: dict[tuple[str, str], importlib.metadata.Distribution] = {}
    left = [(Requirement(root).name, tuple(sorted(Requirement(root).extras))) for root in roots]
    while left:
        name, extras = left.pop()
        for extra in ("", *extras):
            if (normal(name), extra) in found:
                continue
            distribution = found[normal(name), extra] = importlib.metadata.distribution(name)
            for text in distribution.requires or []:
                wanted = Requirement(text)
                if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                    left.append((wanted.name, tuple(sorted(wanted.extras))))
    own = {normal(Requirement(root).name) for root in roots}
    return {name: distribution for (name, _), distribution in found.items() if name not in own}


def stated(distribution: importlib.metadata.Distribution) -> str:
    """The terms that a distribution states: its expression, else its classifiers, else the first line of its text."""
    fields = distribution.metadata
    if expression := fields.get("License-Expression"):
        return expression
    classifiers = [each for each in fields.get_all("Classifier") or [] if each.startswith("License ::")]
    return (
        "; ".join(each.rpartition(" :: ")[2] for each in classifiers)
        or (fields.get("License") or "").partition("\n")[0]
    )


def unclear(distributions: dict[str, importlib.metadata.Distribution]) -> dict[str, str]:
    """Those that nobody has read and whose stated terms are neither permissive nor of files alone."""
    found = {}
    for name, distribution in distributions.items():
        terms = stated(distribution)
        plain = bool(PERMISSIVE.search(terms) or FILES_ALONE.search(terms)) and not re.search(
            "GPL|General Public", terms
        )
        if not plain and name not in READ:
            found[name] = terms or "none stated"
    return found
