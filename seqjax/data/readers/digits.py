"""The handwritten digits that come with scikit-learn."""

import importlib.util
import pathlib

import numpy as np

from seqjax.errors import missing


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Reads 1,797 handwritten digits directly from scikit-learn's file, since importing the package takes seconds.

    Returns:
      (grey images, uint8 (1797, 8, 8, 1), their values 0..16 scaled to 0..255; the digits, int64 (1797,)).

    Raises:
      UserError: scikit-learn is not installed.

    Example:
      >>> images, labels = read_digits()
      >>> images.shape, int(images.max()), labels[:3].tolist()
      ((1797, 8, 8, 1), 255, [0, 1, 2])
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.submodule_search_locations is None:
        raise missing("the embedded digits come with scikit-learn", "experiments")
    file = pathlib.Path(*package.submodule_search_locations, "datasets", "data", "digits.csv.gz")
    if file.is_file():
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        values, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    else:
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        values = values.reshape(-1, 8, 8)
    return np.rint(values[..., None] * (255 / 16)).astype(np.uint8), labels  # pyright: ignore[reportReturnType]
