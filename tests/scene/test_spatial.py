# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The spatial transformer compared with loops over pixels and with the inverse transform of `grid_sample`."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from pyro_sqair.scene.spatial import (
    boxes,
    coverage,
    crop,
    intersection_over_union,
    paste,
    place,
    scale_and_shift,
    where_from_boxes,
)

IMAGE, GLIMPSE = (9, 12), (4, 6)  # not square


def random_where(*shape: int) -> Tensor:
    """Boxes of a fifth to four fifths of the image, with any centre; some reach outside."""
    return torch.cat([torch.empty(*shape, 2).uniform_(-1.4, 1.4), torch.randn(*shape, 2)], -1).double()


def pixel(image: Tensor, row: float, column: float) -> Tensor:
    """Bilinear interpolation of `image` [C, H, W] at a fractional index, zero outside."""
    rows, columns = (
        (1 - (position - torch.arange(size, dtype=image.dtype)).abs()).clamp(min=0)
        for position, size in zip((row, column), image.shape[1:], strict=True)
    )
    return image @ columns @ rows


def slow_crop(image: Tensor, where: Tensor, size: tuple[int, int]) -> Tensor:
    """One glimpse [C, h, w] of one image [C, H, W], pixel by pixel."""
    left, top, width, height = boxes(where, image.shape[1:]).tolist()
    glimpse = image.new_zeros(image.shape[0], *size)
    for i, j in itertools.product(range(size[0]), range(size[1])):
        row, column = top + (i + 0.5) * height / size[0] - 0.5, left + (j + 0.5) * width / size[1] - 0.5
        glimpse[:, i, j] = pixel(image, row, column)
    return glimpse


def slow_paste(glimpse: Tensor, where: Tensor, size: tuple[int, int]) -> Tensor:
    """One glimpse [C, h, w] in an image [C, H, W], pixel by pixel."""
    left, top, width, height = boxes(where, size).tolist()
    image = glimpse.new_zeros(glimpse.shape[0], *size)
    for i, j in itertools.product(range(size[0]), range(size[1])):
        row = (i + 0.5 - top) / height * glimpse.shape[1] - 0.5
        column = (j + 0.5 - left) / width * glimpse.shape[2] - 0.5
        image[:, i, j] = pixel(glimpse, row, column)
    return image


class TestBoxes:
    def test_scale_and_shift(self):
        scale, shift = scale_and_shift(torch.tensor([0.0, math.log(3.0), 0.0, math.atanh(-0.5)]))
        torch.testing.assert_close(scale, torch.tensor([0.5, 0.75]))
        torch.testing.assert_close(shift, torch.tensor([0.0, -0.5]))

    @pytest.mark.parametrize(
        ("scale", "shift", "box"),
        [
            ((1.0, 1.0), (0.0, 0.0), (0.0, 0.0, 12.0, 9.0)),  # the whole image
            ((0.5, 0.5), (0.0, 0.0), (3.0, 2.25, 6.0, 4.5)),
            ((0.25, 1 / 3), (0.75, 0.0), (9.0, 3.0, 3.0, 3.0)),  # at the right edge
            ((0.5, 0.5), (0.5, -0.5), (6.0, 0.0, 6.0, 4.5)),
            ((0.5, 0.5), (-0.75, 0.5), (-1.5, 4.5, 6.0, 4.5)),  # reaches outside
        ],
    )
    def test_known_boxes(self, scale, shift, box):
        where = torch.cat([torch.tensor(scale).logit(), torch.tensor(shift).atanh()])
        torch.testing.assert_close(boxes(where, IMAGE), torch.tensor(box))

    def test_inverse(self):
        where = random_where(2, 5)
        torch.testing.assert_close(where_from_boxes(boxes(where, IMAGE), IMAGE), where)
        box = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 6.0, 8.5]])
        torch.testing.assert_close(boxes(where_from_boxes(box, IMAGE), IMAGE), box)

    def test_intersection_over_union(self):
        first, empty = torch.tensor([0.0, 0.0, 4.0, 2.0]), torch.zeros(4)
        second = torch.tensor([[0.0, 0.0, 4.0, 2.0], [2.0, 1.0, 4.0, 2.0], [4.0, 0.0, 1.0, 1.0], [1.0, 0.5, 1.0, 1.0]])
        expected = torch.tensor([1.0, 2 / 14, 0.0, 1 / 8])
        torch.testing.assert_close(intersection_over_union(first, second), expected)
        assert intersection_over_union(first, empty) == intersection_over_union(empty, empty) == 0


class TestCrop:
    @pytest.mark.parametrize("extra", [(), (2,), (3, 2)])
    @pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_equals_loop(self, extra, batch, channels):
        image, where = torch.rand(*batch, channels, *IMAGE).double(), random_where(*extra, *batch)
        glimpses = crop(image, where, GLIMPSE)
        assert glimpses.shape == (*extra, *batch, channels, *GLIMPSE)
        for e in itertools.product(*map(range, extra)):
            for b in itertools.product(*map(range, batch)):
                torch.testing.assert_close(glimpses[e + b], slow_crop(image[b], where[e + b], GLIMPSE))

    def test_gradients(self):
        image = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
        where = random_where(3, 2).requires_grad_()
        assert gradcheck(lambda i, w: crop(i, w, (2, 3)), (image, where))


class TestPaste:
    @pytest.mark.parametrize("batch", [(), (2,), (3, 2), (2, 3, 2)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_equals_loop(self, batch, channels):
        glimpses, where = torch.rand(*batch, 3, channels, *GLIMPSE).double(), random_where(*batch, 3)
        image = paste(glimpses, place(where, GLIMPSE, IMAGE))
        assert image.shape == (*batch, channels, *IMAGE)
        for b in itertools.product(*map(range, batch)):
            expected = sum(slow_paste(glimpses[b][n], where[b][n], IMAGE) for n in range(3))
            torch.testing.assert_close(image[b], expected)

    def test_inverse_affine(self):
        glimpses, where = torch.rand(6, 1, 2, *GLIMPSE).double(), random_where(6, 1)
        scale, shift = scale_and_shift(where[:, 0])
        theta = torch.cat([torch.diag_embed(1 / scale), (-shift / scale).unsqueeze(-1)], -1)
        grid = F.affine_grid(theta, [6, 2, *IMAGE], align_corners=False)
        expected = F.grid_sample(glimpses[:, 0], grid, padding_mode="zeros", align_corners=False)
        torch.testing.assert_close(paste(glimpses, place(where, GLIMPSE, IMAGE)), expected)

    def test_crop_is_the_inverse_on_the_pixel_grid(self):
        """A glimpse pasted at its own size, aligned with the pixels, is recovered exactly."""
        glimpses = torch.rand(3, 1, 2, *GLIMPSE).double()
        corners = torch.tensor([[0.0, 0.0], [2.0, 1.0], [6.0, 5.0]])
        where = where_from_boxes(torch.cat([corners, torch.tensor([6.0, 4.0]).expand(3, 2)], -1).double(), IMAGE)
        image = paste(glimpses, place(where.unsqueeze(1), GLIMPSE, IMAGE))
        torch.testing.assert_close(crop(image, where, GLIMPSE), glimpses[:, 0])

    def test_gradients(self):
        glimpses = torch.rand(2, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        where = random_where(2, 2).requires_grad_()
        assert gradcheck(lambda g, w: paste(g, place(w, (2, 3), (4, 5))), (glimpses, where))

    @pytest.mark.parametrize("batch", [(2,), (3, 2)])
    def test_coverage_is_paste_of_ones(self, batch):
        pres, where = (torch.rand(*batch, 3) < 0.5).double(), random_where(*batch, 3)
        placement = place(where, GLIMPSE, IMAGE)
        ones = pres[..., None, None, None].expand(*batch, 3, 1, *GLIMPSE)
        result = coverage(pres, placement)
        assert result.shape == (*batch, 1, *IMAGE)
        torch.testing.assert_close(result, paste(ones, placement))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(dtype):
    where = random_where(2, 3).to(dtype)
    glimpses = torch.rand(2, 3, 1, *GLIMPSE, dtype=dtype)
    placement = place(where, GLIMPSE, IMAGE)
    image = paste(glimpses, placement)
    results = image, crop(image, where[:, 0], GLIMPSE), boxes(where, IMAGE), coverage(where[..., 0], placement)
    assert {result.dtype for result in results} == {dtype}


def test_scales_that_underflow_stay_finite():
    where = torch.tensor([[-200.0, -200.0, 9.0, -9.0]], requires_grad=True)
    image = paste(torch.ones(1, 1, *GLIMPSE), place(where, GLIMPSE, IMAGE))
    (image.sum() + crop(image, where[0], GLIMPSE).sum()).backward()
    assert image.isfinite().all()
    assert where.grad.isfinite().all()


def test_training_after_inference_mode():
    """Constants cached in inference mode can be used in training."""
    size = (7, 11)  # used in no other test
    with torch.inference_mode():
        where = random_where(1, 2)
        crop(torch.rand(1, 1, *size).double(), where[:, 0], size)
        place(where, size, size)
    where = random_where(1, 2).requires_grad_()
    image = paste(torch.rand(1, 2, 1, *size).double(), place(where, size, size))
    crop(image, where[:, 0], size).sum().backward()
    assert where.grad.isfinite().all()
