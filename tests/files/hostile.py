"""Models and policies of users' own whose code ends the process, or never could run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from deeprecsys.core.policy import Static
from deeprecsys.zoo.custom import OwnModel
from deeprecsys.zoo.schema import DenseInput, Schema, SparseInput, Table

ONE = Schema((Table("goods", 50, 4),), (SparseInput("item", "goods"),))


class Linear(nn.Linear):
    def forward(self, item):
        return super().forward(item)


class Good(OwnModel):
    schema = ONE

    def dense_stage(self):
        return Linear(4, 1)


class ExitsInInit(Good):
    def __init__(self):
        raise SystemExit(0)


class EndsInInit(Good):
    def __init__(self):
        os._exit(3)


class ExitsInStage(Good):
    def dense_stage(self):
        raise SystemExit("no stage today")


class Exits(Linear):
    def forward(self, item):
        raise SystemExit(5)


class ExitsInForward(Good):
    def dense_stage(self):
        return Exits(4, 1)


class Ends(Linear):
    def forward(self, item):
        os._exit(0)


class EndsInForward(Good):
    def dense_stage(self):
        return Ends(4, 1)


class EndsLater(Linear):
    """Only with the rows of a node: those that describe it are fewer, or random."""

    def forward(self, item):
        if "DEEPRECSYS_TEST_END" in os.environ and Path(os.environ["DEEPRECSYS_TEST_END"]).exists():
            os._exit(7)
        return super().forward(item)


class EndsWhileMeasuring(Good):
    def dense_stage(self):
        return EndsLater(4, 1)


class Columns(nn.Module):
    """Two numbers, then the ids of a shop and of a brand."""

    def __init__(self):
        super().__init__()
        self.shop, self.brand, self.out = nn.Embedding(30, 4), nn.Embedding(7, 4), nn.Linear(10, 1)

    def forward(self, x):
        shop, brand = self.shop(x[:, 2].long()), self.brand(x[:, 3].long())
        return self.out(torch.cat([x[:, :2], shop, brand], 1))


class Unstated(OwnModel):
    schema = Schema((), (DenseInput("x", 4),))

    def dense_stage(self):
        return Columns()


class Stated(Unstated):
    schema = Schema((), (DenseInput("x", 4, ids=((2, 30), (3, 7))),))


@dataclass(frozen=True)
class Failing(Static):
    name = "failing"

    def place(self, *args, **kwargs):
        raise RuntimeError("no place today")


@dataclass(frozen=True)
class Exiting(Static):
    name = "exiting"

    def place(self, *args, **kwargs):
        raise SystemExit(0)
