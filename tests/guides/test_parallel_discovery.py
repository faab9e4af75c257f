# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Parallel discovery: what a slot knows, where it looks, and the windows it looks through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sqair.guides import SQAIRGuide, parallel_guide
from pyro_sqair.guides.parallel_discovery import window_grid
from pyro_sqair.guides.parallel_propagation import SlotLaws
from pyro_sqair.infer import check_sites
from pyro_sqair.models import SQAIR
from pyro_sqair.scene import Objects, SceneConfig
from pyro_sqair.spatial import boxes

N, D, H, B, K = 3, 2, 8, 6, 2
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 16), glimpse_size=(6, 6))


def guide(scene: SceneConfig = SCENE) -> SQAIRGuide:
    """A small guide in double precision."""
    return parallel_guide(scene, H).double()


def some_objects(*batch: int, num: int = N) -> Objects:
    """Objects with gaps, as a program's state never has them, and something in the gaps."""
    pres = torch.randint(0, 2, (*batch, num)).double()
    pres.view(-1, num)[0] = 1  # somebody has an object in every slot, or it would be left out
    return Objects(pres, torch.randn(*batch, num, 4).double(), torch.randn(*batch, num, D).double(), pres.long() - 1)


def numbers(laws: list[SlotLaws]) -> Tensor:
    """All parameters, shape [*, N, ...]."""
    rows = []
    for where, what, pres in laws:
        batch = pres.batch_shape
        parts = (where.mean, where.variance, what.mean, what.variance, pres.logits.unsqueeze(-1))
        rows.append(torch.cat([part.expand(*batch, -1) for part in parts], -1))
    return torch.stack(rows, -2)


def test_a_slot_does_not_know_how_many_come_after_it() -> None:
    """So a trained guide runs with more slots, and finds with the first what it found before."""
    small = guide()
    large = parallel_guide(SceneConfig(6, D, image_size=(12, 16), glimpse_size=(6, 6)), H).double()
    large.load_state_dict(small.state_dict())
    frame, objects = torch.rand(B, 1, 12, 16).double(), some_objects(K, B)
    few, many = (numbers(g.discovery.laws(frame, objects, n)) for g, n in ((small, N), (large, 6)))
    assert many.shape[:-1] == (K, B, 6)
    torch.testing.assert_close(many[..., :N, :], few)
    assert (many[..., 1:, :] != many[..., :-1, :]).any(-1).all()  # no two slots look for the same
    check_sites(SQAIR.build(large.scene, H).double(), large, torch.rand(3, B, 1, 12, 16).double())


def test_a_slot_knows_the_slots_before_it_and_the_known_objects() -> None:
    find, frame, objects = guide().discovery, torch.rand(B, 1, 12, 16).double(), some_objects(B)
    windows, explained = find.encode_windows(frame), torch.zeros(B, 1, len(find.windows)).double()

    def queries(index: Tensor | None = None, what: float = 0.0) -> Tensor:
        known = objects._replace(what=objects.what + what * objects.pres.unsqueeze(-1))
        with pytest.MonkeyPatch.context() as patch:
            if index is not None:
                patch.setattr("pyro_sqair.guides.parallel_discovery.slot_index", lambda num, like: index)
            return find.queries(windows, known, explained, N)

    index = torch.randn(N, 8).double()
    other = index.clone()
    other[1] += 1
    changed = (queries(index) != queries(other)).any(-1).all(0)
    assert changed.tolist() == [False, True, True]
    assert (queries() != queries(what=1.0)).any(-1).all()
    absent = objects._replace(what=objects.what + (1 - objects.pres.unsqueeze(-1)))
    assert torch.equal(find.queries(windows, absent, explained, N), queries())


def test_what_is_known_is_looked_past() -> None:
    find = guide().discovery
    objects = some_objects(B)
    explained = find.explained(objects)
    scale, shift = objects.where[..., :2].sigmoid(), objects.where[..., 2:].tanh()
    x, y = find.centres.unbind(-1)
    for b in range(B):
        expected = torch.zeros(len(x)).double()
        for i in range(N):
            across = (x - shift[b, i, 0]) / (scale[b, i, 0] + 0.5 * 6 / 16)
            down = (y - shift[b, i, 1]) / (scale[b, i, 1] + 0.5 * 6 / 12)
            expected = expected + objects.pres[b, i] * torch.exp(-2 * (across**2 + down**2))
        torch.testing.assert_close(explained[b], expected)


@pytest.mark.parametrize("num", [1, 3, 4])
def test_slots_choose_one_after_the_other(num: int) -> None:
    """In three rounds for all at once, four slots choose as if each had waited for those before it."""
    find = guide().discovery
    queries, windows = torch.randn(B, num, H).double(), 3 * torch.randn(B, len(find.windows), H).double()
    explained = torch.rand(B, 1, len(find.windows)).double()
    choice = find.choose(queries, windows, explained)
    assert choice.shape == (B, num, len(find.windows))
    strength = F.softplus(torch.tensor(3.0)).double()
    reach = 1.5 * torch.tensor([6 / 16, 6 / 12]).double()  # half a window and half of that, in units of half an image
    for b in range(B):
        chosen = torch.zeros(len(find.windows)).double()
        for i in range(num):
            logits = windows[b] @ find.point(queries[b, i]) / H**0.5 - strength * (explained[b, 0] + chosen)
            expected = logits.softmax(0)
            torch.testing.assert_close(choice[b, i], expected)
            distance = (find.centres - expected @ find.centres) / reach
            chosen = chosen + torch.exp(-2 * (distance**2).sum(-1))


def test_attention_leads_to_where() -> None:
    """With nothing added, an object is expected at the centre of the window that is pointed at."""
    find = guide().discovery
    for layer in (find.where[-1], find.point):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    frame, nobody = torch.rand(B, 1, 12, 16).double(), some_objects(B)._replace(pres=torch.zeros(B, N).double())
    for target in range(len(find.windows)):
        beam = torch.full((B, len(find.windows)), 1e3).double()
        beam[:, target] = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(find, "explained", lambda objects, beam=beam: beam)
            where = find.laws(frame, nobody, N)[0].where.mean
        torch.testing.assert_close(where[:, 2:].tanh(), find.centres[target].expand(B, 2))


@pytest.mark.parametrize(
    ("image", "glimpse"), [((50, 50), (20, 20)), ((12, 16), (6, 6)), ((2, 2), (2, 2)), ((64, 48), (28, 12))]
)
def test_windows_cover_the_image(image: tuple[int, int], glimpse: tuple[int, int]) -> None:
    """Each pixel lies in the middle half of some window, whose pixels are those of the image."""
    left, top, width, height = boxes(window_grid(image, glimpse).double(), image).unbind(-1)
    torch.testing.assert_close(width, torch.full_like(width, glimpse[1]), rtol=1e-4, atol=0)
    torch.testing.assert_close(height, torch.full_like(height, glimpse[0]), rtol=1e-4, atol=0)
    y, x = (torch.arange(size).double().unsqueeze(-1) + 0.5 for size in image)
    for pixel, start, size in ((x, left, width), (y, top, height)):
        inside = (pixel - (start + size / 2)).abs() <= size / 4 + 1e-3
        assert inside.any(-1).all()
