"""The restricted Boltzmann machine against sums over all of its states."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.classics.rbm import RBM
from emonet_scratch.errors import DataError
from tests.strategies import seeds, values


def machine(V, H, seed, kind=RBM, **options):
    rbm = kind(V, H, rng=np.random.default_rng(seed), **options)
    rbm.W, rbm.b, rbm.c = (np.array(values(seed + k, *p.shape)) for k, p in enumerate((rbm.W, rbm.b, rbm.c)))
    return rbm


def states(n):
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


def energy(rbm, v, h):
    """E of every v (N, V) with every h (M, H): (N, M), by its definition."""
    own = -v @ rbm.b if rbm.visible == "binary" else 0.5 * ((v - rbm.b) ** 2).sum(axis=1)
    return own[:, None] - v @ rbm.W @ h.T - h @ rbm.c


def belief(rbm):
    """(all states of v, p of each)"""
    v = states(len(rbm.b))
    p = np.exp(-energy(rbm, v, states(len(rbm.c)))).sum(axis=1)
    return v, p / p.sum()


def likelihood(rbm, data):
    """The mean of -log p(v), by all states."""
    _, p = belief(rbm)
    rows = (data @ 2 ** np.arange(data.shape[1])[::-1]).astype(int)
    return -np.log(p[rows]).mean()


def exact(rbm, data):
    """The gradient of `likelihood`, with the sum over all states in place of a Markov chain."""
    v, p = belief(rbm)
    believed = [sum(weight * part for weight, part in zip(p, parts, strict=True))
                for parts in zip(*(rbm.slope(one[None]) for one in v), strict=True)]
    return [d - e for d, e in zip(rbm.slope(data), believed, strict=True)]


def differences(rbm, data, eps=1e-5):
    """The same by central differences in each number of W, b and c."""
    found = []
    for p in (rbm.W, rbm.b, rbm.c):
        slope = np.zeros(p.shape)
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + eps
            more = likelihood(rbm, data)
            p[i] = kept - eps
            slope[i] = (more - likelihood(rbm, data)) / (2 * eps)
            p[i] = kept
        found.append(slope)
    return found


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(["binary", "gaussian"]), seeds)
def test_free_energy_and_conditionals_are_sums_over_the_hidden_states(V, H, visible, seed):
    rbm = machine(V, H, seed, visible=visible)
    v, h = values(seed + 5, 3, V), states(H)
    if visible == "binary":
        v = (v > 0).astype(float)
    weights = np.exp(-energy(rbm, v, h))                                      # (3, states)
    assert np.allclose(np.exp(-rbm.free_energy(v)), weights.sum(axis=1), rtol=1e-10)
    assert np.allclose(rbm.up(v), weights @ h / weights.sum(axis=1, keepdims=True), rtol=1e-10)


@given(st.integers(1, 4), st.integers(1, 3), seeds)
def test_the_visible_units_given_the_hidden_ones(V, H, seed):
    rbm, h, v = machine(V, H, seed), states(H), states(V)
    weights = np.exp(-energy(rbm, v, h))
    assert np.allclose(rbm.down(h), (weights / weights.sum(axis=0)).T @ v, rtol=1e-10)
    real = machine(V, H, seed, visible="gaussian")
    at = real.down(h)                                                         # E is least there, for each h
    for k, one in enumerate(at):
        others = one + 0.1 * values(seed + 9, 4, V)
        assert (energy(real, others, h[k:k + 1]) >= energy(real, one[None], h[k:k + 1])).all()


@given(st.integers(1, 4), st.integers(1, 3), seeds)
def test_the_gradient_of_the_likelihood_is_exact(V, H, seed):
    rbm = machine(V, H, seed)
    data = (values(seed + 5, 6, V) > 0).astype(float)
    for ours, theirs in zip(exact(rbm, data), differences(rbm, data), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-8)


class Forgetful(RBM):
    """A machine whose conditional forgets the hidden biases."""

    def up(self, v):
        return super().up(v) if not np.any(self.c) else 1 / (1 + np.exp(-v @ self.W))


class OneSided(RBM):
    """A machine whose slope for W is half of what it should be."""

    def slope(self, v):
        dW, db, dc = super().slope(v)
        return dW / 2, db, dc


@pytest.mark.parametrize("kind", [Forgetful, OneSided])
def test_a_wrong_gradient_is_found(kind):
    rbm = machine(3, 2, 1, kind)
    data = (values(5, 6, 3) > 0).astype(float)
    assert not all(np.allclose(a, b, rtol=1e-6, atol=1e-8)
                   for a, b in zip(exact(rbm, data), differences(rbm, data), strict=True))


def test_contrastive_divergence_tends_to_the_gradient():
    """Its mean over many chains: the longer they are, the nearer; after 20 steps nothing is left but chance."""
    rbm = machine(4, 3, 3)
    data = np.repeat((values(8, 5, 4) > 0).astype(float), 8000, axis=0)
    truth = exact(rbm, data)

    def distance(k):
        return np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(rbm.cd(data, k), truth, strict=True)))
    one, three, twenty = distance(1), distance(3), distance(20)
    assert one > 3 * twenty and one > three > twenty
    assert twenty < 4 * np.sqrt(4 * 3 + 4 + 3) / np.sqrt(len(data))           # the standard error of so many numbers


def test_a_machine_learns_what_it_is_shown():
    """Two patterns and no others: after training they are far more probable than before."""
    data = np.tile([[1.0, 1, 0, 0], [0, 0, 1, 1]], (200, 1))
    rbm = RBM(4, 6, rng=np.random.default_rng(0))
    before = likelihood(rbm, data)
    rbm.fit(data, epochs=300, lr=0.1)
    assert likelihood(rbm, data) < before / 2 and likelihood(rbm, data) < 1.3 * np.log(2)


def test_rectified_units_are_drawn_around_their_mean():
    rbm = machine(3, 2, 4, visible="gaussian", hidden="relu")
    rbm.c += 5                                                                # far from the kink
    v = np.tile(values(1, 1, 3), (40_000, 1))
    drawn = rbm.sample_up(v)
    assert np.allclose(drawn.mean(axis=0), rbm.up(v[:1])[0], atol=0.02) and (drawn >= 0).all()
    with pytest.raises(ValueError, match="sigmoid"):
        rbm.free_energy(v)


def test_wrong_kinds_and_divergence_are_said():
    with pytest.raises(ValueError, match="visible binary or gaussian"):
        RBM(2, 2, "real")
    with pytest.raises(DataError, match="smaller lr"), np.errstate(all="ignore"):
        RBM(3, 2, "gaussian", "relu").fit(1e3 * values(0, 50, 3), epochs=30, lr=10)
