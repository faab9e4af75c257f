# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""The parallel guide: its depth, its symmetries, that weights stay exact, and that it learns."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyro
import pytest
import torch
from torch import Tensor, nn

from pyro_sqair.data import held_out
from pyro_sqair.evaluation import count_accuracy
from pyro_sqair.guides import SQAIRGuide, parallel_guide
from pyro_sqair.infer import VIMCO, check_sites, evaluate_bounds
from pyro_sqair.infer.log_weights import log_weights
from pyro_sqair.models import SQAIR
from pyro_sqair.presets import preset
from pyro_sqair.rollout import infer_objects
from pyro_sqair.scene import Objects, SceneConfig, stack_objects
from pyro_sqair.slots import DiscoverySlots
from pyro_sqair.training import learning_rate

N, D, H, T, B, K = 3, 2, 8, 4, 6, 2
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 16), glimpse_size=(6, 6))


def guide(stay: float = 0.0, find: float = 1.0, scene: SceneConfig = SCENE) -> SQAIRGuide:
    """A small guide; `stay` and `find` are its first presence logits."""
    program = parallel_guide(scene, H)
    nn.init.constant_(program.propagation.pres[-1].bias, stay)
    nn.init.constant_(program.discovery.pres[-1].bias, find)
    return program


def video(length: int = T, batch: int = B) -> Tensor:
    return torch.rand(length, batch, 1, 12, 16)


def some_objects(*batch: int, num: int = N) -> Objects:
    """Objects with gaps, as a program's state never has them, and something in the gaps."""
    pres = torch.randint(0, 2, (*batch, num)).double()
    pres.view(-1, num)[0] = 1  # somebody has an object in every slot, or it would be left out
    return Objects(pres, torch.randn(*batch, num, 4).double(), torch.randn(*batch, num, D).double(), pres.long() - 1)


@pytest.fixture(scope="module")
def exactness() -> Iterator[ModuleType]:
    """The worlds whose evidence is known in closed form, and the comparison with it."""
    spec = importlib.util.spec_from_file_location("exactness", Path(__file__).parents[1] / "test_exactness.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class TestProgram:
    def test_sites_are_the_models(self) -> None:
        for _ in range(5):
            check_sites(SQAIR.build(SCENE, H), guide(), video())

    def test_every_parameter_gets_a_finite_gradient(self) -> None:
        model, program, frames = SQAIR.build(SCENE, H).double(), guide(2.0, 2.0).double(), video(3, 8).double()
        for parameter in program.parameters():
            with torch.no_grad():  # no weight is zero, which would hide what is behind it
                parameter += 0.01 * torch.randn_like(parameter)
        loss = VIMCO(3)(model, program)(frames)
        loss.backward()
        for name, parameter in program.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    @pytest.mark.parametrize("find", [-100.0, 100.0])
    def test_empty_and_full_scenes(self, find: float) -> None:
        model, program = SQAIR.build(SCENE, H), guide(100.0, find)
        loss = VIMCO(3)(model, program)(video())
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in program.parameters() if p.grad is not None)
        present = stack_objects([state.objects for state in program(video())]).num_present
        assert (present == (0 if find < 0 else N)).all()

    def test_an_object_keeps_its_id_and_its_memory_while_it_stays(self) -> None:
        states = guide(stay=1.0, find=0.0)(video(T, 40))
        stayed = 0
        for before, now in itertools.pairwise(states):
            for b in range(40):
                old, new = (set(state.objects.id[b].tolist()) - {-1} for state in (before, now))
                assert all(i >= before.next_id[b] for i in new - old)
                for i, there in enumerate(now.objects.id[b].tolist()):
                    if there >= 0:  # one just discovered remembers nothing
                        assert (there in old) == bool((now.memory[b, i] != 0).any())
                stayed += len(old & new)
        assert stayed > 50

    def test_windows_are_encoded_once_for_all_particles(self) -> None:
        program, shapes = guide(), []
        program.discovery.window.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
        particles = log_weights(SQAIR.build(SCENE, H), program, (video(),), num_particles=5, max_plate_nesting=1)
        assert particles.log_weight.shape == (5, B)
        assert all(len(set(column.tolist())) == 5 for column in particles.log_weight.T)
        assert shapes == [(B, len(program.discovery.windows), H)] * T

    def test_slots_closed_to_all_cost_nothing(self) -> None:
        """On a CPU: when every scene is full nobody looks for more, and where one object fits, for one."""
        program, counts = guide(stay=100.0, find=100.0), []
        program.discovery.point.register_forward_hook(lambda module, args, output: counts.append(output.shape[-2]))
        program(video())
        assert counts == [N]
        objects = some_objects(B)._replace(pres=torch.tensor([1.0, 0.0, 1.0]).expand(B, N))
        objects = Objects(*(field.to(torch.float32) if field.is_floating_point() else field for field in objects))
        with pyro.plate("sequences", B, dim=-1):
            program.discovery(video()[0], objects, DiscoverySlots(objects))
        assert counts == [N, 1]

    @pytest.mark.parametrize("slots", [2, 5])
    def test_calls_of_networks_do_not_depend_on_the_number_of_slots(self, slots: int) -> None:
        def calls(build) -> list[int]:
            counts = []
            for num in (2, slots):
                scene = SceneConfig(num, D, image_size=(12, 16), glimpse_size=(6, 6))
                program, count = build(scene), Counter()
                for name, module in program.named_modules():
                    if not list(module.children()):
                        module.register_forward_hook(lambda module, args, output, n=name, c=count: c.update([n]))
                for part in (program.discovery, program.propagation):  # nobody is missed, and nobody lost
                    nn.init.constant_(part.pres[-1].bias, 100.0)
                program(video())
                counts.append(count)
            return counts

        parallel = calls(lambda scene: parallel_guide(scene, H))
        assert parallel[0] == parallel[1]
        paper = calls(lambda scene: SQAIRGuide.build(scene, H))
        assert (paper[0] == paper[1]) == (slots == 2)

    def test_average_weight_is_the_evidence(self, exactness: ModuleType) -> None:
        torch.set_default_dtype(torch.float64)

        def broad(world) -> SQAIRGuide:
            """Untrained, with proposals as broad as the prior."""
            program = parallel_guide(world.scene, hidden_size=4)
            exactness.randomise(program, 0.15)
            find, follow = program.discovery, program.propagation
            with torch.no_grad():
                find.where[-1].bias[:4] = torch.tensor(world.where_mean)
                find.scale_bias.fill_(0.8)
                follow.scale_bias.fill_(0.1)
                find.glimpse_encoder.what.bias[1:] = 0.8
                follow.what.gates.bias.fill_(1.0)
                follow.what.expected.bias[1:] = 0.4
                follow.pres[-1].bias.fill_(0.5)
            return program

        world = exactness.World(2, 2, "learned", chain=0.0, crowd=0.0, pull=0.1, pixel_std=0.7)
        case = exactness.make_case(world, broad)
        exactness.assert_average_is_the_evidence(exactness.weigh(case, 8))


@pytest.mark.slow
def test_it_learns_to_count() -> None:
    """300 steps on the embedded digits: the bound rises, and counts are right more often than by chance."""
    experiment = preset("embedded-digits")
    model, _ = experiment.programs()
    program = parallel_guide(experiment.scene, experiment.system.hidden_size)
    train, test = experiment.source("train"), held_out(experiment.source("test"), 200, 3, 1)
    generator = torch.Generator().manual_seed(0)
    objective = VIMCO(5)(model, program)
    optimizer = torch.optim.Adam(objective.parameters(), fused=True)

    def bound() -> Tensor:
        return evaluate_bounds(model, program, test.frames, num_particles=5).iwae.value.mean() / 3

    before = bound()
    with pyro.validation_enabled(False):
        for step in range(300):
            optimizer.param_groups[0]["lr"] = learning_rate(step, experiment.training)
            optimizer.zero_grad()
            (objective(train.sample(32, 3, generator).frames) / 96).backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 300.0)
            optimizer.step()
    accuracy = count_accuracy(infer_objects(program, test.frames).pres, test.count).overall
    chance = test.count.flatten().bincount().max().item() / test.count.numel()
    assert bound() > before + 150
    assert accuracy > chance + 0.2
