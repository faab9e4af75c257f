# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""A bank of posterior draws: the scenes that a trained guide infers, drawn once and kept without their images."""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyro_sqair.data.randomness import derive_seed, isolated
from pyro_sqair.data.sequences import Source, check_draw, require
from pyro_sqair.infer.sites import quoted, sample_sites
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.scene.program import Program

_PHASES = ("disc", "prop")
_FIELDS = ("pres", "where", "what")
_SITE = re.compile(r"frame_(\d+)/(disc|prop)_(\d+)/(pres|where|what)")
_IN_MEMORY = 2**30  # bytes; larger banks are in a temporary file
_CHUNK = 100  # sequences drawn at a time


class Scenes(NamedTuple):
    """A batch of scenes in the place of frames, as `Trainer` takes them: shape [T, B, 2, N, 1 + 4 + D]."""

    frames: Tensor


class Bank:
    """Scenes drawn from a guide; a `Source` of scenes to fit a prior to.

    Args:
        draws: float32 [n, T, 2, N, 1 + 4 + D]: ``pres``, ``where`` and ``what`` of each slot in each phase (discovery,
            propagation) of each frame; zeros in slots that the guide did not visit.
        scene: sizes of the guide.
        guide: the guide; None if it is not at hand.
    """

    def __init__(self, draws: Tensor, scene: SceneConfig, guide: Program | None = None) -> None:
        slot = (2, scene.num_slots, 5 + scene.what_dim)
        valid = draws.dim() == 5 and draws.shape[2:] == slot and 0 not in draws.shape
        require(valid, f"draws of shape [n, T, {', '.join(map(str, slot))}], n and T at least 1", list(draws.shape))
        self.draws, self.scene, self.guide, self.device = draws, scene, guide, draws.device

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def num_propagated(self) -> int:
        """The number of objects propagated to all frames, each counted once per frame."""
        return int(self.draws[:, :, 1, :, 0].sum())

    def split(self, share: float = 0.1) -> tuple[Bank, Bank]:
        """Two banks, to fit to and to validate on; the second has that share of the sequences, at least one."""
        kept = len(self) - max(1, round(share * len(self)))
        require(len(self) > 1, "a bank of at least two sequences", len(self))
        require(kept > 0 and 0 <= share, "a share from 0 to below 1", share)
        return Bank(self.draws[:kept], self.scene, self.guide), Bank(self.draws[kept:], self.scene, self.guide)

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Any:  # Scenes, in the place of Sequences
        """The first `length` frames of random sequences.

        Raises:
            ValueError: if `batch` or `length` is below 1, or the bank has fewer frames.
        """
        check_draw(self, batch, length, generator)
        total, num_frames = self.draws.shape[:2]
        require(length <= num_frames, f"a length of at most {num_frames}, the frames in the bank", length)
        index = torch.randint(total, (batch,), generator=generator, device=self.device)
        return Scenes(self.draws[index, :length].transpose(0, 1))


@torch.no_grad()
def draw_bank(
    guide: Program, source: Source, sequences: int = 4000, length: int = 12, seed: int = 0, progress: bool = True
) -> Bank:
    """Draws scenes from a guide, one for each of `sequences` videos.

    Random states are unchanged. The bank takes 8 n T N (5 + D) bytes; above one GiB it is in a temporary file.

    Args:
        guide: a trained guide.
        source: of the videos, on the device of the guide.
        sequences: n.
        length: T, frames in each.
        seed: of the videos and the draws.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if `sequences` or `length` is below 1, or the guide draws other sites than those of objects.
    """
    require(sequences >= 1 and length >= 1, "sequences and length of at least 1", f"{sequences} and {length}")
    scene, device = guide.scene, torch.device(source.device)
    draws = _zeros(sequences, length, 2, scene.num_slots, 5 + scene.what_dim)
    generator = torch.Generator(device).manual_seed(derive_seed("videos", seed))
    starts = range(0, sequences, _CHUNK)
    with isolated(device), pyro.get_param_store().scope():
        torch.manual_seed(derive_seed("bank", seed))
        for start in tqdm(starts, desc="drawing scenes", disable=not progress, dynamic_ncols=True):
            part = draws[start : start + _CHUNK]
            frames = source.sample(len(part), length, generator).frames
            sites = sample_sites(poutine.trace(guide, graph_type="flat").get_trace(frames))
            if others := [name for name in sites if not _SITE.fullmatch(name)]:
                raise ValueError(f"expected a guide that draws {_FIELDS} of objects only, got {quoted(others)} as well")
            columns = _split(part)
            for name, site in sites.items():
                t, phase, i, field = _SITE.fullmatch(name).groups()  # type: ignore[union-attr]
                columns[field][:, int(t), _PHASES.index(phase), int(i)] = site["value"]
    return Bank(draws, scene, guide)


def site_values(draws: Tensor) -> dict[str, Tensor]:
    """A batch of scenes [T, B, 2, N, 1 + 4 + D] as values of sample sites by name, each of shape [B] or [B, size]."""
    return {
        f"frame_{t}/{phase}_{i}/{field}": value
        for field, column in _split(draws).items()
        for t, frame in enumerate(column.unbind(0))
        for phase, slots in zip(_PHASES, frame.unbind(1), strict=True)
        for i, value in enumerate(slots.unbind(1))
    }


def _split(draws: Tensor) -> dict[str, Tensor]:
    """Views of the three fields of draws [..., 1 + 4 + D]."""
    return {"pres": draws[..., 0], "where": draws[..., 1:5], "what": draws[..., 5:]}


def _zeros(*shape: int) -> Tensor:
    """Zeros in memory or, if they are many, in a temporary file that is deleted with the tensor."""
    size = 4 * torch.Size(shape).numel()
    if size <= _IN_MEMORY:
        return torch.zeros(shape)
    with tempfile.NamedTemporaryFile() as file:  # its blocks are freed when the mapping is closed
        os.posix_fallocate(file.fileno(), 0, size)  # not truncate: a write to a full disk would kill the process
        return torch.from_file(file.name, shared=True, size=size // 4).reshape(shape)
