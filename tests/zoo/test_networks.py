"""Each dense stage against the same thing written the slow and obvious way, from the paper."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from deeprecsys.zoo import model
from deeprecsys.zoo.networks.interest import Augru
from deeprecsys.zoo.networks.layers import SplitLayer, initialise, spread
from deeprecsys.zoo.schema import Per
from tests.zoo.harness import TOLERANCE, Instance, error, instance, instantiate


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def per_item(m: Instance, x):
    """The dense stage's input with the per-query rows repeated for each item, as an [n, ...] float64."""
    staged = m.stages(x)
    n = max(len(v) for v in staged.values())
    return {i.name: spread(staged[i.name], None, n).double() for i in m.schema.inputs}


def layers(module, h, act=torch.relu, last=None):
    """A chain of fully connected layers in float64."""
    linear = [k for k in module.modules() if isinstance(k, torch.nn.Linear)]
    for k, layer in enumerate(linear):
        h = h @ layer.weight.double().t() + layer.bias.double()
        h = act(h) if last is None or k < len(linear) - 1 else last(h)
    return h


def prelu(h):
    return torch.where(h > 0, h, 0.25 * h)


def click(h):
    return torch.softmax(h, dim=1)[:, 1:2]


def check(m: Instance, expected, x):
    assert error(m.score(x).double(), expected) <= TOLERANCE


def test_spread_gives_each_item_its_slices_row():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert spread(x[:1], None, 3).tolist() == [[1, 2]] * 3
    assert spread(x, torch.tensor([0, 0, 1]), 3).tolist() == [[1, 2], [1, 2], [3, 4]]


def test_a_split_layer_is_one_layer_over_both_parts():
    layer = SplitLayer(5, 3, 7, torch.ones(8))
    initialise(layer, 0)
    user, item, slice_of_item = torch.randn(2, 5), torch.randn(4, 3), torch.tensor([0, 1, 1, 1])
    whole = functional.linear(torch.cat([user[slice_of_item], item], dim=1), layer.weight, layer.bias)
    torch.testing.assert_close(layer(user, item, slice_of_item), whole)


@pytest.mark.parametrize("interaction", ["cat", "dot"])
@pytest.mark.parametrize("name", ["dlrm-rmc1", "dlrm-rmc1-artefact", "dlrm-rmc3"])
def test_dlrm(name, interaction):
    m = instantiate(replace(model(name), interaction=interaction))
    x = m.query(4, seed=1)
    full = per_item(m, x)
    bottom = layers(m.dense.bottom, full["dense"])
    vectors = [bottom, *(full[i.name] for i in m.schema.sparse)]
    if interaction == "cat":
        top = torch.cat(vectors, dim=1)
    else:
        rows = []
        for item in range(4):
            row = bottom[item].tolist()
            for i in range(len(vectors)):
                for j in range(i + 1, len(vectors)):
                    row.append(sum((vectors[i][item] * vectors[j][item]).tolist()))
            rows.append(row)
        top = torch.tensor(rows, dtype=torch.float64)
    check(m, layers(m.dense.top, top, last=torch.sigmoid), x)


@pytest.mark.parametrize("name", ["dlrm-rmc1", "dlrm-rmc2"])
def test_dlrm_dot_costs_what_it_says_and_splits(name):
    m = instantiate(replace(model(name), interaction="dot"))
    assert sum(p.numel() for p in m.dense.parameters()) == m.config.dense_parameters
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y = m.score(x := m.query(6, seed=2))
    assert counter.get_total_flops() == 6 * m.config.flops(Per.ITEM)
    assert error(torch.cat([m.score(m.part(x, 0, 1)), m.score(m.part(x, 1, 6))]), y) <= TOLERANCE
    assert 0.001 < y.min() < y.max() < 0.999


def test_ncf_multiplies_user_and_item():
    m = instance("ncf")
    x = m.query(5, seed=1)
    f = per_item(m, x)
    first = m.dense.first
    deep = torch.relu(layers(first, torch.cat([f["mlp_user"], f["mlp_item"]], dim=1), last=lambda h: h))
    both = torch.cat([f["mf_user"] * f["mf_item"], layers(m.dense.mlp, deep)], dim=1)
    check(m, layers(m.dense.out, both, act=torch.sigmoid), x)


def test_ncf_artefact_sums():
    m = instance("ncf-artefact")
    x = m.query(5, seed=1)
    f = per_item(m, x)
    deep = layers(m.dense.mlp, torch.cat([f["sparse_2"], f["sparse_3"]], dim=1))
    check(m, layers(m.dense.out, torch.cat([f["sparse_0"] + f["sparse_1"], deep], dim=1)), x)


@pytest.mark.parametrize("name", ["wnd", "wnd-artefact"])
def test_wide_and_deep_adds_its_parts(name):
    m = instance(name)
    x = m.query(5, seed=1)
    f = per_item(m, x)
    deep_inputs = torch.cat([f[i.name] for i in m.schema.inputs if i.name != "cross"], dim=1)
    hidden = torch.relu(layers(m.dense.first, deep_inputs))
    logit = layers(m.dense.deep, hidden, last=lambda h: h)
    if name == "wnd":
        logit = logit + f["cross"] + f["dense"] @ m.dense.wide.weight.double().t()
    check(m, torch.sigmoid(logit), x)


def test_multi_task_towers_are_separate():
    m = instance("mt-wnd")
    x = m.query(5, seed=1)
    f = per_item(m, x)
    hidden = layers(m.dense.first, torch.cat([f[i.name] for i in m.schema.inputs], dim=1))
    towers = [
        layers(tower, part, last=torch.sigmoid)
        for tower, part in zip(m.dense.towers, hidden.split(m.config.tower[0], dim=1), strict=True)
    ]
    assert len(towers) == m.config.tasks == 2
    check(m, torch.cat(towers, dim=1), x)


def test_mt_wnd_artefact():
    m = instance("mt-wnd-artefact")
    x = m.query(5, seed=1)
    f = per_item(m, x)
    inputs = torch.cat([f[i.name] for i in m.schema.inputs], dim=1)
    check(m, layers(m.dense.layers, inputs, last=torch.sigmoid), x)


def behaviours_and_candidates(f):
    behaviours = torch.cat([f["behaviour_goods"], f["behaviour_category"]], dim=2)
    return behaviours, torch.cat([f["candidate_goods"], f["candidate_category"]], dim=1)


def head(m: Instance, parts):
    dense = m.dense.head
    h = prelu(layers(dense.first, torch.cat(parts, dim=1), act=lambda h: h))
    return layers(dense.rest, h, act=prelu, last=click)


def test_din_attends_to_each_behaviour():
    m = instance("din")
    x = m.query(3, seed=1)
    f = per_item(m, x)
    behaviours, candidates = behaviours_and_candidates(f)
    unit = m.dense.unit
    interest = torch.zeros_like(candidates)
    for item, c in enumerate(candidates):
        for b in behaviours[item]:
            hidden = prelu(layers(unit.hidden, torch.cat([b, c, b - c, b * c]), act=lambda h: h))
            interest[item] += layers(unit.out, hidden, act=lambda h: h) * b
    profile = [f[p] for p in m.config.profile_features]
    check(m, head(m, [*profile, interest, candidates]), x)


def test_din_artefact_has_a_private_unit_per_table():
    m = instance("din-artefact")
    x = m.query(3, seed=1)
    f = per_item(m, x)
    units, a = m.dense.units, f["candidate"]
    summed = torch.zeros_like(a)
    for g, name in enumerate(m.config.behaviour_features):
        u = f[name]
        legs = torch.cat([u, a, u + a], dim=1)
        hidden = torch.relu(legs @ units.w1[g].double().t() + units.b1[g])
        summed += torch.relu(hidden @ units.w2[g].double() + units.b2[g])
    check(m, layers(m.dense.head, torch.cat([f["user"], summed, a, f["context"]], dim=1)), x)


def augru_step(augru: Augru, x, h, a):
    """One step of eqs. 5 and 6 for one item, in float64: vectors in, the next state out."""
    wx = augru.input.weight.double() @ x + augru.input.bias
    uh = augru.state.weight.double() @ h + augru.state.bias
    (xr, xu, xn), (hr, hu, hn) = wx.chunk(3), uh.chunk(3)
    r, u = torch.sigmoid(xr + hr), torch.sigmoid(xu + hu)
    new = torch.tanh(xn + r * hn)
    return (1 - a * u) * h + a * u * new


def test_dien_evolves_interests_step_by_step():
    m = instance("dien")
    x = m.query(3, seed=1)
    f = per_item(m, x)
    behaviours, candidates = behaviours_and_candidates(f)
    interests = m.dense.gru(behaviours[0].float())[0].double()  # [T, hidden]
    states = []
    for c in candidates:
        scores = interests @ (m.dense.attention.weight.double() @ c)
        attention, state = torch.softmax(scores, dim=0), torch.zeros(64, dtype=torch.float64)
        for i_t, a_t in zip(interests, attention, strict=True):
            state = augru_step(m.dense.augru, i_t, state, a_t)
        states.append(state)
    profile = [f[p] for p in m.config.profile_features]
    check(m, head(m, [*profile, torch.stack(states), candidates]), x)


def test_dien_attention_sums_to_one_and_is_not_flat():
    m = instance("dien")
    staged = m.stages(m.query(8, seed=1))
    behaviours, candidates = behaviours_and_candidates(staged)
    interests, _ = m.dense.gru(behaviours.transpose(0, 1))
    attention = m.dense.attend(interests, candidates, None)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(8))
    assert attention.amax(dim=1).mean() > 2 / m.config.behaviours


def test_augru_with_full_attention_is_a_gru():
    """With a = 1 it is torch's GRU whose update gate keeps what ours replaces: z = 1 - u."""
    augru, gru = Augru(6, 5), torch.nn.GRU(6, 5)
    initialise(augru, 1)
    for name, layer in (("ih", augru.input), ("hh", augru.state)):
        weight, bias = layer.weight.clone(), layer.bias.clone()
        weight[5:10] *= -1
        bias[5:10] *= -1
        getattr(gru, f"weight_{name}_l0").copy_(weight)
        getattr(gru, f"bias_{name}_l0").copy_(bias)
    x = torch.randn(9, 1, 6)
    _, expected = gru(x)
    state = augru(x, torch.ones(4, 9), None)
    torch.testing.assert_close(state, expected[0].expand(4, 5))


def test_augru_ignores_what_it_does_not_attend_to():
    augru = Augru(6, 5)
    initialise(augru, 1)
    x, attention = torch.randn(9, 1, 6), torch.zeros(2, 9)
    assert torch.equal(augru(x, attention, None), torch.zeros(2, 5))
    attention[1, 4] = 0.7
    state = augru(x, attention, None)
    alone = augru_step(augru, x[4, 0].double(), torch.zeros(5, dtype=torch.float64), 0.7)
    torch.testing.assert_close(state, torch.stack([torch.zeros(5), alone.float()]))


def test_dien_artefact_runs_two_plain_rnns():
    m = instance("dien-artefact")
    x = m.query(3, seed=1)
    f = per_item(m, x)
    sequence = [f[f"sparse_{t}"] for t in range(1, 41)]
    for rnn in (m.dense.first, m.dense.second):
        w, u, b, c = (p.double() for p in rnn.parameters())
        state, states = torch.zeros(3, 64, dtype=torch.float64), []
        for h in sequence:
            state = torch.tanh(h @ w.t() + b + state @ u.t() + c)
            states.append(state)
        sequence = states
    parts = [sequence[-1], f["sparse_0"], f["sparse_41"], f["sparse_42"]]
    check(m, layers(m.dense.head, torch.cat(parts, dim=1)), x)
