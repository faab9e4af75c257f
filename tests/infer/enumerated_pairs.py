# Copyright Contributors to the pyro_sqair project.
# SPDX-License-Identifier: Apache-2.0

"""Models and guides to enumerate: masks, inner plates, event dimensions, a chain, scales, shared parameters."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from enumeration import MaskedLate, Parameters, Values, Weighed, leaf, log_bernoulli, log_normal
from pyro import poutine
from torch import Tensor

Cut = Callable[[Tensor], Tensor]


class Masked:
    """z -> b -> v -> c -> w -> x: b, c binary, the others normal; b masks c and w, the later draw c masks v."""

    data = torch.tensor([0.7, -1.1], dtype=torch.float64)
    num_bits, num_noise = 2, 3

    def parameters(self) -> Parameters:
        return leaf(0.3, -0.4, 0.8, 0.6, -0.5, 0.9, 1.2), leaf(0.5, 0.1, -0.3, 0.9, 0.4, 0.7, -0.8, 0.6)

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        theta, phi = parameters

        def guide(x):
            held: dict[str, Tensor] = {}
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(phi[0] * x + phi[1], phi[2].exp()))
                b = pyro.sample("b", dist.Bernoulli(logits=phi[3] * z + phi[4] * x))
                v = pyro.sample("v", MaskedLate(dist.Normal(phi[5] * z, 0.5 + 0.1 * b), held))
                with poutine.mask(mask=b.bool()):
                    c = pyro.sample("c", dist.Bernoulli(logits=phi[6] * b + phi[7] * v))
                    pyro.sample("w", dist.Normal(phi[1] * c + phi[5] * v, 1.5))
                held["mask"] = c

        def model(x):
            held: dict[str, Tensor] = {}
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(theta[0], 1.0))
                b = pyro.sample("b", dist.Bernoulli(logits=theta[1] + theta[2] * z))
                v = pyro.sample("v", MaskedLate(dist.Normal(theta[3] * z, 1.0), held))
                with poutine.mask(mask=b.bool()):
                    c = pyro.sample("c", dist.Bernoulli(logits=theta[4] + 0.0 * z))
                    w = pyro.sample("w", dist.Normal(theta[5] * z, 1.0))
                held["mask"] = c
                pyro.sample("x", dist.Normal(z + theta[6] * b * w + c * v - c, 0.7), obs=x)

        return model, guide

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        return {"b": bits[0], "c": bits[1]}, {"z": noise[0], "v": noise[1], "w": noise[2]}

    def by_hand(self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Cut) -> Weighed:
        theta, phi = parameters
        b, c = bits
        z = cut(phi[0] * x + phi[1] + phi[2].exp() * noise[0])
        v = cut(phi[5] * z + (0.5 + 0.1 * b) * noise[1])
        w = cut(phi[1] * c + phi[5] * v + 1.5 * noise[2])
        log_b = log_bernoulli(b, phi[3] * z + phi[4] * x)
        log_c = log_bernoulli(c, phi[6] * b + phi[7] * v)
        log_q = log_normal(z, phi[0] * x + phi[1], phi[2].exp()) + log_b
        log_q = log_q + c * log_normal(v, phi[5] * z, 0.5 + 0.1 * b)
        log_q = log_q + b * (log_c + log_normal(w, phi[1] * c + phi[5] * v, 1.5))
        log_p = log_normal(z, theta[0], 1.0) + log_bernoulli(b, theta[1] + theta[2] * z)
        log_p = log_p + c * log_normal(v, theta[3] * z, 1.0)
        log_p = log_p + b * (log_bernoulli(c, theta[4].expand_as(z)) + log_normal(w, theta[5] * z, 1.0))
        log_p = log_p + log_normal(x, z + theta[6] * b * w + c * v - c, 0.7)
        return Weighed(log_p, log_q, log_b + log_c, log_b + b * log_c)


class Chain:
    """z_1 -> z_2 -> z_3, binary, each observed as a normal x_t; model and guide share s; sites are scaled."""

    data = torch.tensor([[0.7, -1.1, 0.4], [1.6, 0.2, -0.3]], dtype=torch.float64)
    num_bits, num_noise = 3, 0
    scales = (1.0, 0.6, 1.7)  # of z_t in model and guide; that of x_3 is 0.8

    def parameters(self) -> Parameters:
        return leaf(0.6), leaf(-0.3, 0.2, 0.9, -0.2), leaf(0.4, -0.7)  # of both, of the model, of the guide

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        s, theta, phi = parameters

        def guide(x):
            with pyro.plate("data", len(x)):
                z = torch.zeros((), dtype=torch.float64)
                for t, scale in enumerate(self.scales):
                    with poutine.scale(scale=scale):
                        logits = phi[0] + phi[1] * z + s * x[:, t]
                        z = pyro.sample(f"z_{t}", dist.Bernoulli(logits=logits))

        def model(x):
            with pyro.plate("data", len(x)):
                z = torch.zeros((), dtype=torch.float64)
                for t, scale in enumerate(self.scales):
                    with poutine.scale(scale=scale):
                        z = pyro.sample(f"z_{t}", dist.Bernoulli(logits=theta[0] + s * z))
                    with poutine.scale(scale=0.8 if t == 2 else 1.0):
                        mean = theta[1] + theta[2] * z
                        pyro.sample(f"x_{t}", dist.Normal(mean, theta[3].exp()), obs=x[:, t])

        return model, guide

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        return {f"z_{t}": bits[t] for t in range(3)}, {}

    def by_hand(self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Cut) -> Weighed:
        (s,), theta, phi = parameters
        before = torch.cat([torch.zeros_like(bits[:1]), bits[:2]])
        seen = x.T.unsqueeze(1)  # [t, 1, outcomes]
        log_z = log_bernoulli(bits, phi[0] + phi[1] * before + s * seen)
        prior = log_bernoulli(bits, theta[0] + s * before)
        z_scale, x_scale = (torch.tensor(v, dtype=torch.float64) for v in (self.scales, (1.0, 1.0, 0.8)))
        likelihood = log_normal(seen, theta[1] + theta[2] * bits, theta[3].exp())
        log_q = torch.einsum("t,tkn->kn", z_scale, log_z)
        log_p = torch.einsum("t,tkn->kn", z_scale, prior) + torch.einsum("t,tkn->kn", x_scale, likelihood)
        return Weighed(log_p, log_q, log_z.sum(0), log_q)


class Parts:
    """b -> (v_i -> c_i -> y_i) for parts i = 1, 2 in a plate inside the data plate; b masks c_i and v_i."""

    data = torch.tensor([[0.7, -1.1], [1.6, 0.2]], dtype=torch.float64)
    num_bits, num_noise = 3, 2

    def parameters(self) -> Parameters:
        return leaf(0.3, -0.4, 0.8), leaf(0.5, 0.2, 0.9, -0.6)

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        theta, phi = parameters

        def guide(y):
            with pyro.plate("data", len(y), dim=-1):
                b = pyro.sample("b", dist.Bernoulli(logits=phi[0] * y.sum(1)))
                with pyro.plate("parts", 2, dim=-2):
                    v = pyro.sample("v", dist.Normal(phi[1] * y.T + b, 0.8).mask(b.bool()))
                    pyro.sample("c", dist.Bernoulli(logits=phi[2] * v + phi[3] * b).mask(b.bool()))

        def model(y):
            with pyro.plate("data", len(y), dim=-1):
                b = pyro.sample("b", dist.Bernoulli(logits=theta[0]))
                with pyro.plate("parts", 2, dim=-2):
                    v = pyro.sample("v", dist.Normal(theta[1], 1.0).expand(b.shape).mask(b.bool()))
                    c = pyro.sample("c", dist.Bernoulli(logits=v).mask(b.bool()))
                    pyro.sample("y", dist.Normal(theta[2] * c + b * v, 1.1), obs=y.T)

        return model, guide

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        # In the program: [K, parts or 1, data].
        return {"b": bits[:1].transpose(0, 1), "c": bits[1:].transpose(0, 1)}, {"v": noise.transpose(0, 1)}

    def by_hand(self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Cut) -> Weighed:
        theta, phi = parameters
        b, c = bits[0], bits[1:]
        y = x.T.unsqueeze(1)  # [part, 1, outcomes]
        v = cut(phi[1] * y + b + 0.8 * noise)
        log_b = log_bernoulli(b, phi[0] * x.sum(1))
        log_c = log_bernoulli(c, phi[2] * v + phi[3] * b)
        log_q = log_b + b * (log_c + log_normal(v, phi[1] * y + b, 0.8)).sum(0)
        log_p = log_bernoulli(b, theta[0]) + log_normal(y, theta[2] * c + b * v, 1.1).sum(0)
        log_p = log_p + b * (log_normal(v, theta[1], 1.0) + log_bernoulli(c, v)).sum(0)
        return Weighed(log_p, log_q, log_b + log_c.sum(0), log_b + b * log_c.sum(0))


class Events:
    """z -> b -> u -> x: z and u are normal vectors, b is a matrix of two bits, x a matrix."""

    data = torch.tensor([[[0.7, -1.1]], [[1.6, 0.2]]], dtype=torch.float64)
    num_bits, num_noise = 2, 4

    def parameters(self) -> Parameters:
        return leaf(0.3, -0.4, 0.8, 0.6), leaf(0.5, -0.3, 0.9, 0.4)

    def programs(self, parameters: Parameters) -> tuple[Callable, Callable]:
        theta, phi = parameters

        def guide(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(phi[0] * x[:, 0], phi[1].exp()).to_event(1))
                b = pyro.sample("b", dist.Bernoulli(logits=phi[2] * z.unsqueeze(-2)).to_event(2))
                pyro.sample("u", dist.Normal(phi[3] * z * b.squeeze(-2), 0.7).to_event(1))

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, 0]), 1.0).to_event(1))
                b = pyro.sample("b", dist.Bernoulli(logits=theta[0] + theta[1] * z.unsqueeze(-2)).to_event(2))
                u = pyro.sample("u", dist.Normal(theta[2] * z, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(theta[3] * b + u.unsqueeze(-2) * b, 0.9).to_event(2), obs=x)

        return model, guide

    def layout(self, bits: Tensor, noise: Tensor) -> tuple[Values, Values]:
        z, u = noise.permute(1, 2, 0).split(2, -1)  # [K, data, 2]
        return {"b": bits.permute(1, 2, 0).unsqueeze(-2)}, {"z": z, "u": u}

    def by_hand(self, parameters: Parameters, x: Tensor, bits: Tensor, noise: Tensor, cut: Cut) -> Weighed:
        theta, phi = parameters
        x = x[:, 0].T.unsqueeze(1)  # [entry, 1, outcomes]
        z = cut(phi[0] * x + phi[1].exp() * noise[:2])
        u = cut(phi[3] * z * bits + 0.7 * noise[2:])
        log_b = log_bernoulli(bits, phi[2] * z)
        log_q = log_normal(z, phi[0] * x, phi[1].exp()) + log_b + log_normal(u, phi[3] * z * bits, 0.7)
        log_p = log_normal(z, 0.0, 1.0) + log_bernoulli(bits, theta[0] + theta[1] * z)
        log_p = log_p + log_normal(u, theta[2] * z, 1.0) + log_normal(x, theta[3] * bits + u * bits, 0.9)
        return Weighed(log_p.sum(0), log_q.sum(0), log_b.sum(0), log_b.sum(0))


PAIRS = {"masked": Masked(), "chain": Chain(), "parts": Parts(), "events": Events()}
