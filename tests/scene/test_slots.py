# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Slots name sites, apply the presence rules, and skip only what contributes zero."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_sqair.experiments import SQAIRSystem
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots, _Slot

N, D, B = 3, 2, 6
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def objects_of(pres: Tensor) -> Objects:
    ids = torch.where(pres > 0, torch.arange(pres.shape[-1]), -1)
    return Objects(pres, torch.zeros(*pres.shape, 4), torch.zeros(*pres.shape, D), ids)


@pytest.fixture
def all_open() -> PropagationSlots:
    return PropagationSlots(objects_of(torch.ones(B, N)))


def draw_object(pres: float = 0.5, order: str = "pwt", what: float = 0.0) -> None:
    """Draws pres (p), where (w) and what (t) in the given order."""
    for name in order:
        if name == "p":
            pyro.sample("pres", dist.Bernoulli(torch.tensor(pres)))
        elif name == "w":
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        else:
            pyro.sample("what", dist.Normal(torch.full((D,), what), 1.0).to_event(1))


def draw_all(slots: Slots, pres: float = 0.5, order: str = "pwt") -> None:
    for i in slots:
        draw_object(pres, order, what=float(i))


def traced(slots: Slots, program: Callable = draw_all, **kwargs):
    """The trace of a program in a plate of sequences."""

    def run():
        with pyro.plate("sequences", slots.is_open(0).shape[-1], dim=-1), Prefix("frame_4"):
            program(slots, **kwargs)

    trace = poutine.trace(run).get_trace()
    trace.compute_log_prob()
    return trace


def sample_sites(trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "sequences"]


class TestNames:
    def test_propagation_and_discovery(self, all_open):
        expected = [f"frame_4/prop_{i}/{name}" for i in range(N) for name in ("pres", "where", "what")]
        assert sample_sites(traced(all_open)) == expected
        slots = DiscoverySlots(objects_of(torch.zeros(B, N)))
        assert sample_sites(traced(slots, pres=1.0))[::3] == [f"frame_4/disc_{i}/pres" for i in range(N)]
        assert (slots.objects(None, D, torch.empty(0)).id == -1).all(), "new objects have no id yet"

    def test_sites_outside_the_loop_have_no_slot(self, all_open):
        """With `phase_prefix`, both phases can draw a latent of the same name."""

        def program(slots):
            with slots.phase_prefix():
                pyro.sample("shared", dist.Normal(0.0, 1.0))
                draw_all(slots)
            pyro.sample("shared", dist.Normal(0.0, 1.0))

        names = sample_sites(traced(all_open, program))
        assert names[0] == "frame_4/prop/shared"
        assert names[2] == "frame_4/prop_0/where"
        assert names[-1] == "frame_4/shared"

    def test_every_slot_can_open_a_plate_of_the_same_name(self, all_open):
        def program(slots):
            for _ in slots:
                with pyro.plate("axes", 4, dim=-2):
                    pyro.sample("extra", dist.Normal(0.0, 1.0))
                draw_object()

        trace = traced(all_open, program)
        assert {f"frame_4/prop_{i}/axes" for i in range(N)} <= set(trace.nodes)
        assert trace.nodes["frame_4/prop_1/extra"]["value"].shape == (4, B)


class TestPresenceRules:
    @pytest.mark.parametrize("order", ["pwt", "wtp", "wpt"])
    def test_propagation_is_open_where_an_object_was(self, order):
        before = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
        trace = traced(PropagationSlots(objects_of(before)), pres=1.0, order=order)
        for i in range(N):
            nodes = [trace.nodes[f"frame_4/prop_{i}/{name}"] for name in ("pres", "where", "what")]
            assert torch.equal(nodes[0]["value"], before[:, i])
            for node in nodes:
                assert (node["log_prob"][before[:, i] == 0] == 0).all()
            for node in nodes[1:]:
                assert (node["log_prob"][before[:, i] == 1] != 0).all()

    def test_discovery_is_open_after_a_find_while_there_is_room(self):
        propagated = (torch.arange(N) < torch.tensor([0, 1, 2, 3] * 50).unsqueeze(-1)).float()
        trace = traced(DiscoverySlots(objects_of(propagated)), pres=0.7)
        found = torch.stack([trace.nodes[f"frame_4/disc_{i}/pres"]["value"] for i in range(N)], -1)
        room = N - propagated.sum(-1)
        assert (found.sum(-1) <= room).all()
        assert (found[:, 1:] <= found[:, :-1]).all()
        for number in range(N + 1):
            assert set(found[room == number].sum(-1).tolist()) == set(range(number + 1))
        for i in range(N):
            before = found[:, i - 1] if i else torch.ones(len(found))
            is_open = (room > i) & (before > 0)
            log_prob = trace.nodes[f"frame_4/disc_{i}/pres"]["log_prob"]
            assert (log_prob[~is_open] == 0).all()
            assert (log_prob[is_open] != 0).all()

    def test_extra_latents_are_recorded_and_count_only_where_present(self, all_open):
        def program(slots):
            for _ in slots:
                pyro.sample("velocity", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                draw_object(order="wt")
                pyro.sample("pres", dist.Bernoulli(torch.tensor([1.0, 0.0] * (B // 2))))
                pyro.sample("colour", dist.Categorical(torch.ones(3)))

        trace = traced(all_open, program)
        for i, draws in enumerate(all_open.draws):
            for name in ("velocity", "colour"):
                node = trace.nodes[f"frame_4/prop_{i}/{name}"]
                assert torch.equal(draws[name], node["value"])
                assert (node["log_prob"][1::2] == 0).all()
                assert (node["log_prob"][::2] != 0).all()

    def test_conditioned_values_are_recorded(self, all_open):
        where = torch.randn(B, 4)
        with poutine.condition(data={"frame_4/prop_1/where": where}):
            traced(all_open)
        assert torch.equal(all_open.draws[1]["where"], where)


class TestObjects:
    def test_draws_of_present_objects(self):
        """The last slot is closed in every sequence, so it is not visited."""
        before = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 0]])
        slots = PropagationSlots(objects_of(before))
        trace = traced(slots)
        result = slots.objects(torch.arange(10, 10 + N).expand(3, N), D, before)
        for i in range(2):
            pres, where, what = (trace.nodes[f"frame_4/prop_{i}/{name}"]["value"] for name in ("pres", "where", "what"))
            assert torch.equal(result.pres[:, i], pres)
            assert torch.equal(result.where[:, i], where * pres.unsqueeze(-1))
            assert torch.equal(result.what[:, i], what * pres.unsqueeze(-1))
        assert all((field[:, 2] == 0).all() for field in result[:3])
        assert torch.equal(result.id, torch.where(result.pres > 0, torch.arange(10, 10 + N), -1))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_no_slot_visited(self, dtype):
        slots = PropagationSlots(objects_of(torch.zeros(2, N)))
        assert list(slots) == []
        result = slots.objects(None, D, torch.empty(0, dtype=dtype))
        assert [tuple(field.shape) for field in result] == [(N,), (N, 4), (N, D), (N,)]
        assert result.pres.dtype == result.where.dtype == result.what.dtype == dtype
        assert (result.pres == 0).all()
        assert (result.id == -1).all()

    @pytest.mark.parametrize(("name", "size", "others"), [("where", 3, "pt"), ("what", D + 1, "pw")])
    def test_draws_of_a_wrong_size(self, all_open, name, size, others):
        for _ in all_open:
            draw_object(order=others)
            pyro.sample(name, dist.Normal(torch.zeros(B, size), 1.0).to_event(1))
        with pytest.raises(ValueError, match=f"expected site '{name}' of slot prop_0 to have .* dimensions, got"):
            all_open.objects(None, D, torch.empty(0))


class TestErrors:
    @pytest.mark.parametrize(
        ("order", "missing"), [("pw", ["what"]), ("wt", ["pres"]), ("", ["pres", "what", "where"])]
    )
    def test_missing_sites(self, all_open, order, missing):
        names = ", ".join(map(repr, missing))
        with pytest.raises(ValueError, match=rf"expected sites .* in slot prop_0.*missing: \[{names}\]"):
            traced(all_open, order=order)
        assert not _PYRO_STACK

    def test_an_error_in_the_loop_leaves_no_handler_on_the_stack(self, all_open):
        def program(slots):
            for i in slots:
                draw_object()
                if i == 1:
                    raise RuntimeError("error in user code")

        with pytest.raises(RuntimeError, match="error in user code") as error:
            traced(all_open, program)
        assert not _PYRO_STACK, "the traceback keeps the loop alive, but the handler must be gone"
        del error
        traced(all_open)
        assert not _PYRO_STACK

    @pytest.mark.parametrize("num_drawn", [0, 2])
    def test_leaving_the_loop_early(self, all_open, num_drawn):
        """It leaves no handler on the stack, and all objects in the trace are in the scene."""

        def program(slots):
            for i in slots:
                if num_drawn > 0:
                    draw_object(pres=1.0)
                if i + 1 >= num_drawn:
                    break

        trace = traced(all_open, program)
        assert not _PYRO_STACK
        drawn = [name for name in sample_sites(trace) if name.endswith("pres")]
        assert len(drawn) == num_drawn
        if num_drawn > 0:
            assert all_open.objects(torch.arange(N), D, torch.empty(0)).num_present.tolist() == [num_drawn] * B


def visit_all(slots: Slots):
    """Iterates over all slots, without stopping early."""
    slots.draws = []
    for i in range(slots.num):
        slot = _Slot(f"{slots.phase}_{i}", slots.is_open(i))
        with slot:
            yield i
        slots.draws.append(slot.draws)


class TestEarlyStop:
    def test_closed_slots_are_skipped(self):
        slots = PropagationSlots(objects_of(torch.tensor([[1.0, 0, 0], [1, 1, 0]])))
        assert sample_sites(traced(slots))[-1] == "frame_4/prop_1/what"
        assert list(DiscoverySlots(objects_of(torch.ones(B, N)))) == []

    def test_weights_do_not_change(self, monkeypatch):
        """Programs that skip closed slots and programs that visit all slots have the same weights and objects."""
        model, guide = (p.double() for p in SQAIRSystem(8, object_costs=(1.0, 1.0)).programs(SCENE))
        torch.nn.init.zeros_(guide.propagation.pres[-1].bias)  # removes objects, also from middle slots
        frames = torch.rand(5, 2, 1, 12, 12, dtype=torch.float64)
        runs = []
        for _ in range(8):
            short = poutine.trace(guide).get_trace(frames)
            runs.append((short, poutine.trace(poutine.replay(model, trace=short)).get_trace(frames)))

        monkeypatch.setattr(Slots, "__iter__", visit_all)
        for module in ("guides.propagation", "models.propagation", "models.renderer", "nn.networks"):
            monkeypatch.setattr(f"pyro_sqair.{module}.trim_slots", lambda objects: objects)
        skipped = 0
        for short, short_model in runs:
            full = poutine.trace(poutine.replay(guide, trace=short)).get_trace(frames)
            full_model = poutine.trace(poutine.replay(model, trace=full)).get_trace(frames)
            for few, every in ((short, full), (short_model, full_model)):
                few.compute_log_prob()
                every.compute_log_prob()
                assert set(sample_sites(few)) <= set(sample_sites(every))
                for name in sample_sites(every):
                    log_prob = every.nodes[name]["log_prob"]
                    if name in few:
                        torch.testing.assert_close(few.nodes[name]["log_prob"], log_prob, rtol=1e-12, atol=1e-12)
                    else:
                        assert (log_prob == 0).all()
                        skipped += 1
            for left, right in zip(short.nodes["_RETURN"]["value"], full.nodes["_RETURN"]["value"], strict=True):
                assert torch.equal(left.objects.pres, right.objects.pres)
                assert torch.equal(left.objects.id, right.objects.id)
                assert torch.equal(left.objects.what, right.objects.what)
        assert skipped > 100
