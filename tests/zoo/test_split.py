"""Split invariance: however a query is cut, and whatever it shares a batch with, it scores the same."""

import pytest
import torch

from deeprecsys.zoo import MODELS
from deeprecsys.zoo.schema import Per
from tests.zoo.harness import TOLERANCE, error, instance

SIZE = 33

CLEARLY = 10 * TOLERANCE
"""What a wrong id changes the scores by: no tolerance may hide it."""


@pytest.mark.parametrize("name", MODELS)
def test_scores_have_the_schemas_shape_and_differ(name):
    m = instance(name)
    for size in (1, SIZE):
        y = m.score(m.query(size, seed=1))
        assert y.shape == (size, m.schema.outputs)
        assert y.dtype == torch.float32
        assert torch.isfinite(y).all()
    assert (y.std(dim=0) > 100 * TOLERANCE).all()


@pytest.mark.parametrize("batch_size", [1, 7, 16, 32])
@pytest.mark.parametrize("name", MODELS)
def test_a_query_in_pieces_scores_as_the_whole(name, batch_size):
    m = instance(name)
    x = m.query(SIZE, seed=1)
    starts = range(0, SIZE, batch_size)
    pieces = [m.score(m.part(x, s, min(s + batch_size, SIZE))) for s in starts]
    assert error(torch.cat(pieces), m.score(x)) <= TOLERANCE


@pytest.mark.parametrize("sizes", [[5, 1, 12], [1, 1], [30, 2, 1, 9]])
@pytest.mark.parametrize("name", MODELS)
def test_queries_in_one_batch_score_as_alone(name, sizes):
    m = instance(name)
    queries = [m.query(n, seed=10 + i) for i, n in enumerate(sizes)]
    alone = torch.cat([m.score(x) for x in queries])
    assert error(m.score_merged(queries, sizes), alone) <= TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_one_swapped_id_changes_the_scores(name):
    """Of every sparse input, in its first and its last look-up; of its own item or query and no other's.

    Up to five wrong ids each: the change of a score has a random sign and size, so one in some
    hundreds is small by chance. An input that is ignored changes nothing five times over.
    """
    m = instance(name)
    sizes = [2, 3]
    queries = [m.query(n, seed=20 + n) for n in sizes]
    before = m.score_merged(queries, sizes)
    for i in m.schema.sparse:
        mine = torch.zeros(5, dtype=torch.bool)
        mine[2 : 3 if i.per is Per.ITEM else 5] = True
        for lookup in {0, queries[1][i.name].shape[1] - 1}:
            largest = 0.0
            for step in range(1, 6):
                ids = queries[1][i.name].clone()
                ids[0, lookup] = (ids[0, lookup] + step) % m.schema.table(i.table).rows
                after = m.score_merged([queries[0], queries[1] | {i.name: ids}], sizes)
                assert error(after[~mine], before[~mine]) <= TOLERANCE
                largest = max(largest, error(after[mine], before[mine]))
                if largest > CLEARLY:
                    break
            assert largest > CLEARLY, (i.name, lookup)


@pytest.mark.parametrize("name", [n for n in MODELS if not n.endswith("-jagged")])
def test_every_dense_input_changes_the_scores(name):
    m = instance(name)
    x = m.query(3, seed=2)
    for i in m.schema.dense:
        changed = x | {i.name: x[i.name] + 0.1}
        assert (m.score(changed) - m.score(x)).abs().amax(dim=1).min() > CLEARLY
