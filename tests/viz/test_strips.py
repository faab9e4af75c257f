# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from drawn import extent, has_color

from pyro_sqair.viz import color_of
from pyro_sqair.viz.mosaic import Mosaic, Outline
from pyro_sqair.viz.strips import make_strip


def test_frames_are_exact_to_the_pixel() -> None:
    noise = torch.randint(256, (7, 9, 3), dtype=torch.uint8).numpy()
    for width in range(100, 140):
        mosaic = Mosaic(width, 60, zoom=4)
        mosaic.frame(noise, left=11, top=13)
        rendered = mosaic.render()
        assert rendered.shape == (60, width, 3)
        np.testing.assert_array_equal(rendered[13:41, 11:47], noise.repeat(4, 0).repeat(4, 1))


def test_boxes_are_clipped_to_their_frame() -> None:
    mosaic = Mosaic(100, 100, zoom=4)
    frame = np.zeros((10, 10, 3), dtype=np.uint8)
    mosaic.frame(frame, 20, 20, [Outline((5.0, -3.0, 20.0, 8.0), color_of(0))])
    assert extent(has_color(mosaic.render(), color_of(0))) == (38, 59, 20, 41)


def test_empty_mosaic() -> None:
    with pytest.raises(ValueError, match="expected width, height and zoom of at least 1, got 0, 10 and 1"):
        Mosaic(0, 10, 1)


def test_pixels_are_clipped_and_grey_becomes_rgb() -> None:
    frames = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 1, 5)
    expected = np.array([0, 0, 128, 255, 255], dtype=np.uint8)[None, None, None, :, None].repeat(3, -1)
    np.testing.assert_array_equal(make_strip("", frames).pictures, expected)


def test_outlines_are_those_of_present_objects() -> None:
    boxes = torch.rand(2, 3, 2, 4)
    strip = make_strip("", torch.zeros(2, 3, 1, 4, 4), boxes, torch.tensor([4, -1]).expand(2, 3, 2))
    assert strip.outlines == [
        [[Outline(tuple(boxes[t, b, 0].tolist()), color_of(4))] for b in range(3)] for t in range(2)
    ]
