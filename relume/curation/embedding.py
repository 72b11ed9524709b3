"""What a photograph looks like, as an image encoder sees it: one of CLIP, for instance, given as an ONNX file."""

from functools import lru_cache
from typing import Any

import numpy as np

from relume.curation.settings import Encoder
from relume.errors import ConfigError
from relume.files import sha256_file


def embedding(pixels: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Encodes a photograph as CLIP's are: shrunk to the encoder's size, and its centre cut out.

    Args:
        pixels: (H, W, 3) RGB uint8.
        encoder: Which takes float32 (N, 3, side, side) and gives (N, D).

    Returns:
        (D,) float32 of length 1.

    Raises:
        ConfigError: The file is not the one that is named, or no such encoder.
    """
    from PIL import Image

    session, name, side, output = _opened(encoder.file, encoder.sha256)
    factor = side / min(pixels.shape[:2])
    size = [max(side, round(length * factor)) for length in pixels.shape[1::-1]]
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = ((length - side) // 2 for length in small.shape[:2])
    square = small[top : top + side, left : left + side].astype(np.float32) / 255
    normalised = (square - np.array(encoder.mean, np.float32)) / np.array(encoder.std, np.float32)
    (vector,) = session.run([output], {name: normalised.transpose(2, 0, 1)[None]})[0]
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@lru_cache(maxsize=1)
def _opened(file: str, sha256: str) -> tuple[Any, str, int, str]:
    """The encoder, the name of its input, the side of that, and the name of its output of vectors."""
    import onnxruntime

    def refused(why: object) -> ConfigError:
        return ConfigError(
            "The image encoder cannot be used", where=file, why=why, next_step="correct curate.embedding"
        )

    try:
        found = sha256_file(file)
    except OSError as error:
        raise refused(error.strerror) from None
    if found != sha256:
        raise refused(f"its SHA-256 is {found}, and curate.embedding.sha256 is another")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # photographs are measured side by side, and the number of threads changes bits
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that onnxruntime does not export
        raise refused(error) from None
    shape = session.get_inputs()[0].shape
    vectors = [output.name for output in session.get_outputs() if len(output.shape) == 2]
    if len(shape) != 4 or not isinstance(shape[3], int) or shape[1:3] != [3, shape[3]] or not vectors:
        raise refused(
            f"it takes {shape} and gives {len(vectors)} vectors, but should take [N, 3, side, side] and give [N, D]"
        )
    return session, session.get_inputs()[0].name, shape[3], vectors[0]
