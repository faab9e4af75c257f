# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Slots name sites, apply the presence rules, and leave out only what adds exactly nothing."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_sqair.guides import SQAIRGuide
from pyro_sqair.models import SQAIR, FixedCount
from pyro_sqair.scene import objects as scene_module
from pyro_sqair.scene.objects import Objects, SceneConfig
from pyro_sqair.scene.slots import DiscoverySlots, Prefix, PropagationSlots, Slots, _Slot

N, D, B = 3, 2, 6
SCENE = SceneConfig(num_slots=N, what_dim=D, image_size=(12, 12), glimpse_size=(6, 6))


def objects_of(pres: Tensor) -> Objects:
    ids = torch.where(pres > 0, torch.arange(pres.shape[-1]), -1)
    return Objects(pres, torch.zeros(*pres.shape, 4), torch.zeros(*pres.shape, D), ids)


def draw(slots: Slots, pres: float = 0.5, order: str = "pwt") -> None:
    """A prior that draws every slot, presence first or last."""
    for i in slots:
        for name in order:
            if name == "p":
                pyro.sample("pres", dist.Bernoulli(torch.tensor(pres)))
            elif name == "w":
                pyro.sample("where", dist.Normal(torch.full((4,), float(i)), 1.0).to_event(1))
            else:
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))


def traced(slots: Slots, program=draw, **kwargs):
    """The trace of a program in a plate of B sequences."""

    def run():
        with pyro.plate("sequences", slots_batch(slots), dim=-1), Prefix("frame_4"):
            program(slots, **kwargs)

    trace = poutine.trace(run).get_trace()
    trace.compute_log_prob()
    return trace


def slots_batch(slots: Slots) -> int:
    return slots.is_open(0).shape[-1]


def sample_sites(trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "sequences"]


class TestNames:
    def test_phase_slot_and_prefix(self):
        trace = traced(PropagationSlots(objects_of(torch.ones(B, N))))
        expected = [f"frame_4/prop_{i}/{name}" for i in range(N) for name in ("pres", "where", "what")]
        assert sample_sites(trace) == expected

    def test_discovery(self):
        trace = traced(DiscoverySlots(objects_of(torch.zeros(B, N))), pres=1.0)
        assert sample_sites(trace)[::3] == [f"frame_4/disc_{i}/pres" for i in range(N)]

    def test_after_the_loop_sites_are_the_programs_own(self):
        def program(slots):
            draw(slots)
            pyro.sample("weather", dist.Normal(0.0, 1.0))

        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        assert sample_sites(traced(slots, program))[-1] == "frame_4/weather"

    def test_plates_are_prefixed_too_so_every_slot_may_open_the_same(self):
        def program(slots):
            for _ in slots:
                pyro.sample("pres", dist.Bernoulli(0.5))
                with pyro.plate("axes", 4, dim=-2):
                    pyro.sample("wobble", dist.Normal(0.0, 1.0))
                pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))

        trace = traced(PropagationSlots(objects_of(torch.ones(B, N))), program)
        assert {f"frame_4/prop_{i}/axes" for i in range(N)} <= set(trace.nodes)
        assert trace.nodes["frame_4/prop_1/wobble"]["value"].shape == (4, B)

    def test_phase_names_what_is_drawn_outside_slots(self):
        """Both phases may draw a latent of the same name that their objects share."""

        def program(slots):
            with slots.phase_prefix():
                pyro.sample("weather", dist.Normal(0.0, 1.0))
                for i in slots:
                    pyro.sample("pres", dist.Bernoulli(0.5))
                    pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                    pyro.sample("what", dist.Normal(torch.full((D,), float(i)), 1.0).to_event(1))

        names = sample_sites(traced(PropagationSlots(objects_of(torch.ones(B, N))), program))
        assert "frame_4/prop/weather" in names
        assert "frame_4/prop_1/where" in names

    @pytest.mark.parametrize(("name", "size"), [("where", 3), ("what", D + 1)])
    def test_draws_of_the_wrong_size_are_named(self, name, size):
        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        sizes = {"where": 4, "what": D} | {name: size}
        for _ in slots:
            pyro.sample("pres", dist.Bernoulli(0.5))
            for site, dimensions in sizes.items():
                pyro.sample(site, dist.Normal(torch.zeros(B, dimensions), 1.0).to_event(1))
        with pytest.raises(ValueError, match=f"expected site '{name}' of slot prop_0 to have .* dimensions, got"):
            slots.objects(None, D, torch.empty(0))

    def test_any_iteration_protocol(self):
        def program(slots):
            for i, letter in zip(slots, "abc", strict=True):
                pyro.sample(letter, dist.Normal(0.0, 1.0))
                draw_rest(i)

        def draw_rest(i):
            pyro.sample("pres", dist.Bernoulli(0.5))
            pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))

        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        assert len(slots) == N
        assert {"frame_4/prop_0/a", "frame_4/prop_2/c"} <= set(sample_sites(traced(slots, program)))


class TestPresenceRules:
    @pytest.mark.parametrize("order", ["pwt", "wtp", "wpt"])
    def test_propagation_opens_where_an_object_was(self, order):
        before = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
        slots = PropagationSlots(objects_of(before))
        trace = traced(slots, pres=1.0, order=order)
        for i in range(N):
            nodes = [trace.nodes[f"frame_4/prop_{i}/{name}"] for name in ("pres", "where", "what")]
            assert torch.equal(nodes[0]["value"], before[:, i])
            for node in nodes:
                assert (node["log_prob"][before[:, i] == 0] == 0).all()
            for node in nodes[1:]:
                assert (node["log_prob"][before[:, i] == 1] != 0).all()

    def test_discovery_opens_after_a_find_while_there_is_room(self):
        propagated = (torch.arange(N) < torch.tensor([0, 1, 2, 3] * 50).unsqueeze(-1)).float()
        slots = DiscoverySlots(objects_of(propagated))
        trace = traced(slots, pres=0.7)
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

    def test_extra_latents_are_recorded_and_count_only_where_present(self):
        def program(slots):
            for _ in slots:
                pyro.sample("velocity", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))
                pyro.sample("pres", dist.Bernoulli(torch.tensor([1.0, 0.0] * (B // 2))))
                pyro.sample("colour", dist.Categorical(torch.ones(3)))  # after presence as well as before

        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        trace = traced(slots, program)
        for i, drawn in enumerate(slots.draws):
            for name in ("velocity", "colour"):
                node = trace.nodes[f"frame_4/prop_{i}/{name}"]
                assert torch.equal(drawn[name], node["value"])
                assert (node["log_prob"][1::2] == 0).all()
                assert (node["log_prob"][::2] != 0).all()

    def test_values_given_from_outside_are_recorded(self):
        where = torch.randn(B, 4)
        slots = PropagationSlots(objects_of(torch.ones(B, N)))

        def run():
            with pyro.plate("sequences", B, dim=-1), Prefix("frame_4"):
                draw(slots)

        poutine.condition(run, {"frame_4/prop_1/where": where})()
        assert torch.equal(slots.draws[1]["where"], where)


class TestObjects:
    def test_what_was_drawn(self):
        before = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 1]])
        slots = PropagationSlots(objects_of(before))
        trace = traced(slots)
        result = slots.objects(torch.arange(10, 10 + N).expand(3, N), D, before)
        for i in range(N):
            for name in ("pres", "where", "what"):
                drawn = trace.nodes[f"frame_4/prop_{i}/{name}"]["value"]
                # what an absent object drew shows nowhere
                there = result.pres[:, i] if name == "pres" else result.pres[:, i, None]
                assert torch.equal(getattr(result, name)[:, i], drawn * there)
        assert torch.equal(result.id, torch.where(result.pres > 0, torch.arange(10, 10 + N), -1))

    def test_slots_not_visited_hold_nobody(self):
        before = torch.tensor([[1.0, 0, 0], [1, 0, 0]])
        slots = PropagationSlots(objects_of(before))
        traced(slots, pres=1.0)
        result = slots.objects(torch.arange(N).expand(2, N), D, before)
        assert torch.equal(result.pres, before)
        assert (result.where[:, 1:] == 0).all()
        assert (result.what[:, 1:] == 0).all()
        assert torch.equal(result.id, torch.tensor([[0, -1, -1], [0, -1, -1]]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_no_slot_visited(self, dtype):
        slots = PropagationSlots(objects_of(torch.zeros(2, N)))
        assert list(slots) == []
        result = slots.objects(None, D, torch.empty(0, dtype=dtype))
        assert [tuple(field.shape) for field in result] == [(N,), (N, 4), (N, D), (N,)]
        assert result.pres.dtype == result.where.dtype == result.what.dtype == dtype
        assert (result.pres == 0).all()
        assert (result.id == -1).all()

    def test_new_objects_have_no_id_yet(self):
        slots = DiscoverySlots(objects_of(torch.zeros(B, N)))
        traced(slots, pres=1.0)
        assert (slots.objects(None, D, torch.empty(0)).id == -1).all()


class TestErrors:
    @pytest.mark.parametrize(
        ("order", "missing"), [("pw", ["what"]), ("wt", ["pres"]), ("", ["pres", "what", "where"])]
    )
    def test_missing_sites(self, order, missing):
        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        with pytest.raises(
            ValueError, match=rf"expected sites .* in slot prop_0.*missing: \[{', '.join(map(repr, missing))}\]"
        ):
            traced(slots, order=order)
        assert not _PYRO_STACK

    def test_an_error_in_the_loop_leaves_nothing_on_the_stack(self):
        def program(slots):
            for i in slots:
                pyro.sample("pres", dist.Bernoulli(0.5))
                if i == 1:
                    raise RuntimeError("the user's own mistake")
                pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))

        with pytest.raises(RuntimeError, match="the user's own mistake") as error:
            traced(PropagationSlots(objects_of(torch.ones(B, N))), program)
        assert not _PYRO_STACK, "even while the traceback keeps the loop alive"
        del error
        assert not _PYRO_STACK
        traced(PropagationSlots(objects_of(torch.ones(B, N))))  # and the next program runs as ever

    def test_leaving_the_loop_early_leaves_nothing_on_the_stack(self):
        def program(slots):
            for _ in slots:
                break

        traced(PropagationSlots(objects_of(torch.ones(B, N))), program)
        assert not _PYRO_STACK

    @pytest.mark.parametrize("leave", ["break", "return"])
    def test_an_object_drawn_before_leaving_the_loop_is_not_lost(self, leave):
        """What is in the trace is in the scene, or leaving is an error that says so."""

        def program(slots):
            for i in slots:
                pyro.sample("pres", dist.Bernoulli(1.0))
                pyro.sample("where", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("what", dist.Normal(torch.zeros(D), 1.0).to_event(1))
                if i == 1:
                    if leave == "break":
                        break
                    return

        slots = PropagationSlots(objects_of(torch.ones(B, N)))
        try:
            trace = traced(slots, program)
        except ValueError:
            return
        drawn = sum(trace.nodes[name]["value"].sum() for name in sample_sites(trace) if name.endswith("pres"))
        assert slots.objects(torch.arange(N), D, torch.empty(0)).pres.sum() == drawn


def visit_all(slots: Slots):
    """The loop over slots without its early end."""
    slots.draws = []
    for i in range(slots.num):
        slot = _Slot(f"{slots.phase}_{i}", slots.is_open(i))
        with slot:
            yield i
        slots.draws.append(slot.draws)


class TestEarlyEnd:
    """Leaving out slots that are closed everywhere changes no weight: programs with and without it agree."""

    def programs(self, dtype=torch.float64):
        model = SQAIR.build(SCENE, 8, count=FixedCount(1.0, 1.0)).to(dtype)
        guide = SQAIRGuide.build(SCENE, 8).to(dtype)
        torch.nn.init.zeros_(guide.propagation.pres[-1].bias)  # so that objects are lost, in the middle too
        return model, guide

    def test_slots_are_left_out(self):
        slots = PropagationSlots(objects_of(torch.tensor([[1.0, 0, 0], [1, 1, 0]])))
        assert sample_sites(traced(slots))[-1] == "frame_4/prop_1/what"
        slots = DiscoverySlots(objects_of(torch.ones(B, N)))
        assert list(slots) == []

    def test_weights_are_the_same(self, monkeypatch):
        model, guide = self.programs()
        frames = torch.rand(5, 2, 1, 12, 12, dtype=torch.float64)
        runs = []
        for _ in range(8):
            short = poutine.trace(guide).get_trace(frames)
            runs.append((short, poutine.trace(poutine.replay(model, trace=short)).get_trace(frames)))

        monkeypatch.setattr(Slots, "__iter__", visit_all)
        for module in scene_module, *users_of_trim_slots():
            monkeypatch.setattr(module, "trim_slots", lambda objects: objects)
        left_out = 0
        for short, short_model in runs:
            full = poutine.trace(poutine.replay(guide, trace=short)).get_trace(frames)
            full_model = poutine.trace(poutine.replay(model, trace=full)).get_trace(frames)
            for few, every in ((short, full), (short_model, full_model)):
                few.compute_log_prob()
                every.compute_log_prob()
                assert set(sample_sites(few)) <= set(sample_sites(every))
                for name in sample_sites(every):
                    right = every.nodes[name]["log_prob"]
                    if name in few:
                        torch.testing.assert_close(few.nodes[name]["log_prob"], right, rtol=1e-12, atol=1e-12)
                    else:
                        assert (right == 0).all()
                        left_out += 1
            # and who is there in the end is the same
            for left, right in zip(short.nodes["_RETURN"]["value"], full.nodes["_RETURN"]["value"], strict=True):
                assert torch.equal(left.objects.pres, right.objects.pres)
                assert torch.equal(left.objects.id, right.objects.id)
                assert torch.equal(left.objects.what, right.objects.what)
        assert left_out > 100


def users_of_trim_slots():
    from pyro_sqair.guides import propagation as guide
    from pyro_sqair.models import propagation as prior
    from pyro_sqair.models import renderer
    from pyro_sqair.nn import networks

    return [module for module in (networks, guide, prior, renderer) if hasattr(module, "trim_slots")]
