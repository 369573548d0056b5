"""A dense stage of each model on each route, and random rows to feed it."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deeprecsys.engine.dense import DenseStage, Layout, build, installed
from deeprecsys.zoo import Model, model
from deeprecsys.zoo.networks import dense_stage, weighted
from deeprecsys.zoo.schema import DenseInput, Per, Pooling

ROUTES = len(installed())
"""Stages that are kept, those of one model: of all models they take gigabytes."""


@cache
def small(name: str) -> Model:
    return model(name).scaled(1e-4)


@lru_cache(1)
def network(name: str) -> nn.Module:
    return weighted(small(name), seed=3)


@lru_cache(ROUTES)
def stage(route: str, name: str) -> DenseStage:
    return build(route, small(name), network(name))


@lru_cache(1)
def double(name: str) -> nn.Module:
    """The same weights in float64, what every route is an approximation of."""
    net = dense_stage(small(name))
    net.load_state_dict(network(name).state_dict())
    return net.double()


def rows(name: str, items: int, slices: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Contiguous values by input name as the sparse stage makes them of tables of order 1."""
    rng = np.random.default_rng(seed)
    schema, layout = small(name).schema, Layout.of(small(name))
    views = layout.views(layout.allocate(items, slices))
    x = {}
    for i in schema.inputs:
        shape = views[i.name].shape
        if isinstance(i, DenseInput):
            x[i.name] = rng.standard_normal(shape, np.float32)
            continue
        pooled = i.pooling in (Pooling.SUM, Pooling.MEAN)
        values = rng.uniform(-1, 1, shape) * (np.sqrt(i.lookups) if pooled else 1)
        x[i.name] = values.astype(np.float32)
    return x


def slices_of_items(sizes: list[int]) -> NDArray[np.int64] | None:
    return None if len(sizes) == 1 else np.repeat(np.arange(len(sizes)), sizes)


def put(s: DenseStage, x: dict[str, NDArray[np.float32]], sizes: list[int]) -> None:
    """Write rows into a stage's buffers, as a gather kernel would; the rest of them is rubbish."""
    s.reserve(sum(sizes), len(sizes))
    for buffer in s.buffers.values():
        buffer[...] = np.nan
    for n, view in s.layout.views(s.buffers).items():
        view[: len(x[n])] = x[n]


def score(s: DenseStage, x: dict[str, NDArray[np.float32]], sizes: list[int]) -> NDArray[np.float32]:
    put(s, x, sizes)
    out = np.full((sum(sizes), s.outputs), np.nan, np.float32)
    s.run(sum(sizes), slices_of_items(sizes), out)
    return out


@torch.inference_mode()
def exact(name: str, x: dict[str, NDArray[np.float32]], sizes: list[int]) -> NDArray[np.float64]:
    slice_of_item = slices_of_items(sizes)
    values = {n: torch.from_numpy(a).double() for n, a in x.items()}
    y: NDArray[np.float64] = double(name)(
        values, None if slice_of_item is None else torch.from_numpy(slice_of_item)
    ).numpy()
    return y


def per_query(name: str) -> bool:
    return any(i.per is Per.QUERY for i in small(name).schema.inputs)
