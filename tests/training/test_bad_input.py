# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Invalid frames are reported before they do damage."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.infer import VIMCO
from pyro_sqair.scene.objects import SceneConfig
from pyro_sqair.training import Trainer, TrainingConfig

SCENE = SceneConfig(num_slots=2, what_dim=2, image_size=(8, 8), glimpse_size=(4, 4))


class Batch(NamedTuple):
    """A batch; `frames` [T, B, 1, 8, 8]."""

    frames: Tensor


class Source:
    """Random frames, invalid from draw `start` on."""

    def __init__(self, bad: Tensor | float, start: int) -> None:
        self.device = torch.device("cpu")
        self.bad, self.start, self.drawn = bad, start, 0

    def sample(self, batch: int, length: int, generator: torch.Generator) -> Batch:
        frames = torch.rand(length, batch, 1, 8, 8, generator=generator)
        if self.drawn >= self.start:
            frames = frames * self.bad if isinstance(self.bad, float) else self.bad.expand(frames.shape)
        self.drawn += 1
        return Batch(frames)


def trainer(source: Source, out: Path) -> Trainer:
    torch.manual_seed(0)
    config = TrainingConfig(steps=6, batch_size=2, num_particles=2, log_every=2, curriculum=((2, 1.0),))
    model, guide = SQAIRSystem(4).programs(SCENE)
    return Trainer(model, guide, VIMCO(num_particles=2), source, config, out, progress=False)


BAD = {
    "NaN": (float("nan"), "NaN"),
    "0 to 255": (255.0, r"\[0, 1\]"),
    "uint8": (torch.zeros((), dtype=torch.uint8), "uint8"),
    "float64": (torch.zeros((), dtype=torch.float64), "float64"),
}


@pytest.mark.parametrize("kind", BAD)
def test_invalid_first_batch_changes_no_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 20}\n')
    bad, says = BAD[kind]
    with pytest.raises(ValueError, match=f"expected .*{says}"):
        trainer(Source(bad, start=0), tmp_path).run()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "log.jsonl"}
    assert (tmp_path / "log.jsonl").read_text() == '{"kind": "train", "step": 20}\n'


@pytest.mark.parametrize("kind", BAD)
def test_later_invalid_batch_is_reported(kind: str, tmp_path: Path) -> None:
    bad, says = BAD[kind]
    run = trainer(Source(bad, start=3), tmp_path)
    with pytest.raises(ValueError, match=f"expected .*{says}"):
        run.run()
    assert 3 <= run.step <= 4  # in the step where the program fails, else at the next log record
