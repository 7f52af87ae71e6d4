"""The handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from gridnn.data.base import Data
from gridnn.data.order import split_in_two
from gridnn.data.stored import Stored
from gridnn.errors import UserError

SCALE, MEAN, STD = 1 / 16, (0.3053,), (0.3760,)


def open_digits() -> Data:
    """1,437 digits to train and 360 to test, always the same ones; `UserError` if scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "dataset digits comes with scikit-learn, which is not installed: pip install 'gridnn[data]', "
            "or use --dataset synthetic"
        ) from None
    digits = load_digits()
    images, labels = digits.images[..., None], digits.target
    train, test = split_in_two(len(images))
    return Data(
        *(
            Stored(f"digits ({part})", [images[rows]], [labels[rows]], 10, scale=SCALE, mean=MEAN, std=STD)
            for part, rows in (("train", train), ("test", test))
        ),
        name="digits",
    )
