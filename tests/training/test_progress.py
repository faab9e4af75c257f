# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

import time

import pytest

from pyro_sqair.training import TrainingConfig
from pyro_sqair.training.progress import Progress


def test_remaining_time_is_proportional_to_frames(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 steps of 3 frames and 100 of 6: 150 steps are 450 of 1200 frames."""
    clock = iter([1000.0, 1090.0])
    config = TrainingConfig(steps=300, curriculum=((3, 0.5), (6, 0.5)))
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock))
        progress = Progress(config, step=0)
        for _ in range(150):
            progress.advance()
        progress.describe(step=150, length=3, bound=612.345, count=0.9791)
    progress.close()
    # 90 s for 450 frames: 150 s for the other 750.
    assert "150/300" in (shown := capsys.readouterr().err)
    assert "bound=612.3 count=0.979 length=3 eta=02:30" in shown


def test_resumed_run_measures_only_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0])
    config = TrainingConfig(steps=300, curriculum=((3, 0.5), (6, 0.5)))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress(config, step=200, shown=False)
    assert progress._remaining(200) == "?"
    assert progress._remaining(250) == "00:10"


def test_hidden_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(TrainingConfig(), step=0, shown=False)
    progress.advance()
    progress.describe(1, 3, 0.0, None)
    progress.close()
    assert capsys.readouterr() == ("", "")
