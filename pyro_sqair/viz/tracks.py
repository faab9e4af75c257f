# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Figures of what was tracked, predicted and dreamt up: time runs to the right."""

from pathlib import Path

from torch import Tensor

from pyro_sqair.tracking.rollout import Rollout
from pyro_sqair.viz.pictures import as_outlines, as_pictures, check_rollout
from pyro_sqair.viz.strips import Strip, arrange


def draw_tracks(frames: Tensor, rollout: Rollout, path: str | Path, sequences: int = 6, columns: int = 12) -> None:
    """Draws the inputs over their reconstructions with boxes, whose colour is the object's id.

    Args:
        frames: the input, shape [T, B, C, H, W].
        rollout: what guide and model make of it.
        path: of the image; the format follows from the suffix.
        sequences: draws at most so many, the first of the batch.
        columns: draws at most so many frames, evenly spread from the first to the last.

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_rollout(rollout, frames)
    strips = [Strip("input", as_pictures(frames[:, :sequences])), inferred(rollout, sequences, "inferred")]
    arrange(strips, columns).save(path)


def draw_prediction(
    frames: Tensor, rollout: Rollout, seen: int, path: str | Path, sequences: int = 4, columns: int = 12
) -> None:
    """Draws the inputs over what the model infers for the first `seen` frames and imagines after them.

    Args:
        frames: what really happens, shape [T, B, C, H, W]; may stop before the rollout does.
        rollout: inferred for the first `seen` frames, imagined from there on.
        seen: number of frames that were shown to the guide.
        path: of the image; the format follows from the suffix.
        sequences: draws at most so many, the first of the batch.
        columns: draws at most so many frames, evenly spread from the first to the last.

    Raises:
        ValueError: if the shapes do not fit, or `seen` is not between 1 and the length of the rollout.
    """
    check_rollout(rollout, frames)
    if not 1 <= seen <= len(rollout.image):
        raise ValueError(f"expected seen between 1 and the rollout's length {len(rollout.image)}, got {seen}")
    strips = [Strip("truth", as_pictures(frames[:, :sequences])), inferred(rollout, sequences, "model")]
    arrange(strips, columns, seen).save(path)


def draw_samples(rollout: Rollout, path: str | Path, sequences: int = 8, columns: int = 12) -> None:
    """Draws sequences that the model made up, with the boxes of their objects; one row for each.

    Args:
        rollout: drawn from the prior.
        path: of the image; the format follows from the suffix.
        sequences: draws at most so many, the first of the batch.
        columns: draws at most so many frames, evenly spread from the first to the last.

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_rollout(rollout)
    arrange([inferred(rollout, sequences, "sample")], columns).save(path)


def inferred(rollout: Rollout, sequences: int, label: str) -> Strip:
    """The images of a rollout's first sequences, with boxes over them."""
    image = rollout.image[:, :sequences]
    outlines = as_outlines(rollout.objects, (image.shape[-2], image.shape[-1]))
    return Strip(label, as_pictures(image), outlines)
