"""Where in a face: on faces whose class is in the mouth, or in the brows, and nowhere else."""

import numpy as np
import pytest

from emonet_scratch.explain.saliency import _last_map, centre, enlarged, grad_cam, occlusion
from emonet_scratch.models import ResNet
from emonet_scratch.training.images import ImageTrainer, Recipe

SIZE, REGIONS = 48, {"mouth": (30, 46), "brows": (4, 20)}         # rows


def planted(count, seed, moves):
    """(images, labels): ovals whose mouths and brows move independently; the label is what one of the two does."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    states = dict(zip(REGIONS, rng.integers(0, 2, (2, count)), strict=True))
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for k, image in enumerate(images):
        face = np.full((SIZE, SIZE), rng.uniform(40, 80))
        face[((y - 24) / 22) ** 2 + ((x - 24) / 18) ** 2 < 1] = rng.uniform(140, 200)
        brow, mouth = 14 - 5 * states["brows"][k], 4 * states["mouth"][k]
        for eye in (16, 32):
            face[(y - 20) ** 2 + (x - eye) ** 2 < 8] = 30
            face[brow:brow + 2, eye - 5:eye + 6] = 40
        face[37 - mouth:39 + mouth, 18:31] = 40
        image[...] = np.clip(face + rng.normal(0, 6, face.shape), 0, 255)[..., None]
    return images, states[moves]


def shuffled(net):
    """The same with the weights of each filter bank in any order."""
    rng, other = np.random.default_rng(0), ResNet(8, 2, 8)
    other.load_state_dict({name: rng.permutation(a.ravel()).reshape(a.shape) if a.ndim == 4 else a
                           for name, a in net.state_dict().items()})
    return other.eval()


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    recipe, made = Recipe(depth=8, width=8, epochs=4, batch_size=32, lr=0.05), {}
    for moves in REGIONS:
        folder = tmp_path_factory.mktemp(moves)
        trainer = ImageTrainer(planted(800, 0, moves), planted(100, 1, moves), folder, recipe, log=lambda line: None)
        assert trainer.fit()["accuracy"] > 0.95
        made[moves] = trainer.resnet.eval()
    return made


@pytest.fixture(scope="module")
def net(nets):
    return nets["mouth"]


def inside(net, heat_of, moves):
    """The share of pictures in which the heat's centre is in the region that makes the class."""
    images, labels = planted(230, 2, moves)
    heats = heat_of(net, images[labels == 1][:100], 1)
    assert len(heats) == 100
    top, bottom = REGIONS[moves]
    return np.mean([top <= centre(np.maximum(heat, 0))[0] < bottom for heat in heats])


@pytest.mark.parametrize("moves", REGIONS)
def test_the_heat_is_where_the_class_is(nets, moves):
    assert inside(nets[moves], grad_cam, moves) >= 0.9


def test_what_is_hidden_is_missed_where_the_heat_is(net):
    assert inside(net, lambda net, images, label: occlusion(net, images, label, side=8), "mouth") >= 0.9


@pytest.mark.parametrize("moves", REGIONS)
def test_a_trunk_with_shuffled_weights_sees_nothing_there(nets, moves):
    assert inside(shuffled(nets[moves]), grad_cam, moves) < 0.5


def test_the_gradient_of_a_logit_is_what_moves_it(net):
    """Against central differences of the layers behind the map; nothing is added to the gradients of parameters."""
    images, _ = planted(3, 4, "mouth")
    before = [p.grad.copy() for p in net.parameters()]
    A, dA = _last_map(net, images, 1)
    direction = np.random.default_rng(0).standard_normal(A.shape).astype(A.dtype)

    def odds(step):
        z = net.dense.forward(net.pool.forward(A + step * direction)[0])[0]
        return (z[:, 1] - z[:, 0]).sum()                                      # of two classes, the log-odds
    assert (odds(1.0) - odds(-1.0)) / 2 == pytest.approx((dA * direction).sum(), rel=1e-4)
    assert all(np.array_equal(p.grad, old) for p, old in zip(net.parameters(), before, strict=True))


def test_a_map_is_enlarged_about_its_middle():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    large = enlarged(heat, (32, 32))
    assert large.shape == (32, 32) and large.max() <= 1 and centre(large) == pytest.approx((11.5, 19.5), abs=0.1)
    assert np.allclose(enlarged(np.ones((3, 5)), (30, 20)), 1) and centre(np.zeros((5, 7))) == (2, 3)
