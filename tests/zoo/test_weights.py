"""Weights: drawn from the seed alone, and scores that say something."""

import pytest
import torch

from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.networks.layers import Layer, columns, input_std
from tests.zoo.harness import instance


def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    return dict(weighted(model(name), seed).named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_one_seed_gives_the_same_weights_whatever_came_before(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = weights(name, seed=7)
        torch.manual_seed(2)
        second = weights(name, seed=7)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not any(p.requires_grad for p in first.values())


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_drawn_from_the_seed(name):
    first, second = weights(name, seed=7), weights(name, seed=8)
    slopes = {k for k, v in first.items() if v.shape == (1,) and v.item() == 0.25}  # PReLU keeps its own
    assert {k for k in first if torch.equal(first[k], second[k])} == slopes


@pytest.mark.parametrize("name", MODELS)
def test_scores_neither_saturate_nor_stand_still(name):
    m = instance(name)
    y = torch.cat([m.score(m.query(64, seed=s)) for s in range(8)])
    assert y.std(dim=0).mean() > 0.02
    if "artefact" in name and name.startswith(("ncf", "din", "dien")):  # ReLU outputs
        assert (y == 0).float().mean() < 0.05
        assert y.max() < 10
    else:
        assert ((y > 1e-3) & (y < 1 - 1e-3)).float().mean() > 0.99


def test_a_layer_allows_for_its_inputs_scale():
    generator = torch.Generator().manual_seed(0)
    std = columns((200, 1.0), (100, 50.0))
    layer = Layer(300, 4000, std, gain=2.0)
    with torch.no_grad():
        layer.initialise(generator)
        y = layer(torch.randn(20, 300, generator=generator) * std)
    assert y.var().item() == pytest.approx(2.0, rel=0.1)


def test_a_layer_refuses_scales_of_another_width():
    with pytest.raises(ValueError, match=r"std: expected \[4\], got \[3\]"):
        Layer(4, 2, columns((3, 1.0)))


@pytest.mark.parametrize("name", ["dlrm-rmc1", "din", "wnd"])
def test_input_scales_are_those_of_the_pooled_rows(name):
    m = instance(name)
    pooled = [m.stages(m.query(256, seed=s)) for s in range(4)]
    for i in m.schema.sparse:
        got = torch.cat([x[i.name].flatten() for x in pooled]).std().item()
        # Small tables, few draws: close, not exact.
        assert got == pytest.approx(input_std(m.schema, i.name), rel=0.3 if i.lookups == 1 else 0.15)
