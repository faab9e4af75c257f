# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0
"""A real recording: people on a street (PETS 2009 S2.L1), against ground truth that others drew."""

from pathlib import Path

import pytest
import torch

from pyro_sqair.data import SequenceDataset, Sequences, VideoConfig, convert_video

pytest.importorskip("cv2")


def drawn(sequences: Sequences) -> torch.Tensor:
    """The pixels whose middles are in a box: bool [T, B, H, W]."""
    height, width = sequences.frames.shape[-2:]
    left, top, wide, high = sequences.boxes[..., None, None].unbind(2 + 1)
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    inside = (x > left) & (x < left + wide) & (y > top) & (y < top + high)
    return (inside & sequences.present[..., None, None]).any(2)


@pytest.mark.parametrize(
    "background", ["median", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mog2", "knn"))]
)
def test_pets(background: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pets09_s2l1"
    config = VideoConfig(sequences=400, background=background)
    made = convert_video(folder / "vtest.avi", tmp_path / "a.h5", config, folder / "gt.txt", progress=False)
    assert made[2:] == ((360, 40), 795, (240, 180))
    for path in made[:2]:
        sequences = SequenceDataset(path).read()
        pixels, inside = sequences.frames[:, :, 0], drawn(sequences)
        within, without = float(pixels[inside].mean()), float(pixels[~inside].mean())
        assert within > 20 * without  # measured: 70 or more
        assert within > 0.4  # measured: 0.45 to 0.54; a box is larger than the person in it
        assert (pixels[~inside] == 0).float().mean() > 0.98
        assert pixels[pixels > 0].mean() > 0.7
        assert sequences.count.max() == 3 and sequences.count.amax(0).min() == 1
        # Hardly a person who counts of whom nothing is lit.
        slots = torch.arange(sequences.present.shape[-1])
        seen = [
            (drawn(sequences._replace(present=sequences.present & (slots == slot))) & (pixels > 0)).flatten(2).any(-1)
            for slot in slots
        ]
        assert torch.stack(seen, -1)[sequences.present].float().mean() > (0.99 if background == "median" else 0.9)
