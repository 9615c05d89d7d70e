"""Gram matrices of features, and the losses of Gatys et al. (2016) that compare pictures by them."""

from __future__ import annotations

from torch import Tensor


def gram(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the Gram matrix `(C, C)` of features `(C, h, w)`, divided by their number of cells.

    Gatys et al. print the sum over the cells (eq. 3) and divide by their number in the loss (eq. 4). A mask `(h, w)`
    weighs the cells.
    """
    cells = features.flatten(1)
    if mask is None:
        return cells @ cells.T / cells.shape[1]
    return (cells * mask.flatten()) @ cells.T / mask.sum()


def content_loss(features: Tensor, content: Tensor) -> Tensor:
    """Return half of the sum of squared differences of features `(C, h, w)` (eq. 1 of Gatys et al.)."""
    return (features - content).square().sum() / 2


def style_loss(features: Tensor, style: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the squared difference of the Gram matrix of features `(C, h, w)` and one of a style `(C, C)`.

    Divided by 4 C^2 (eq. 4 of Gatys et al.), which divides by the cells of the picture for both matrices; here each
    matrix is divided by its own, so that a style of another size has another weight by no more than its picture. A
    mask `(h, w)` weighs the cells of the features.
    """
    return (gram(features, mask) - style).square().sum() / (4 * features.shape[0] ** 2)


def total_variation(image: Tensor) -> Tensor:
    """Return the sum of squared differences of neighbouring pixels of an image `(3, H, W)`."""
    return (image[:, 1:] - image[:, :-1]).square().sum() + (image[:, :, 1:] - image[:, :, :-1]).square().sum()


def outside(image: Tensor) -> Tensor:
    """Return the mean square of what lies outside [0, 1] in an image `(3, H, W)`."""
    return (image - image.clamp(0, 1)).square().mean()
