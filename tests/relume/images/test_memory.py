"""What a header says that decoding takes is what was measured; ingest shares memory out by it."""

import subprocess
import sys

import pytest

MEASURE = """
import sys
import numpy as np
from relume.images import decode, encode
from tests.abuse.images import memory
from tests.relume.images.damaged import SAMPLES, samples

pixels = np.tile(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8), (50, 50, 1))
data = samples(pixels)[sys.argv[1]]()
encode(decode(SAMPLES[sys.argv[1]]).pixels, ".png")  # imports what decoding needs
del pixels
with memory() as taken:
    image = decode(data)
    encode(image.pixels, ".png")
print(taken[0], image.header.decoding_bytes)
"""


@pytest.mark.parametrize("sample", ["jpeg progressive", "webp lossless", "tiff 16 alpha"])
def test_decoding_takes_what_the_header_says(sample):
    """Nine megapixels of a kind, in a process of their own, take no more than that, and not only half of it."""
    done = subprocess.run([sys.executable, "-c", MEASURE, sample], check=True, capture_output=True, text=True)
    taken, said = map(int, done.stdout.split())
    assert said / 2 < taken < said
