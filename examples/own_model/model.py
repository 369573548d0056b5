"""A ranking model as its user trained it (`Ranker`), and what is added to have it served (`ServedRanker`)."""

import torch
from torch import nn

from deeprecsys.zoo.custom import OwnModel
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table

USERS, ITEMS, DIM, FEATURES, HISTORY = 100_000, 200_000, 32, 16, 20


# --- the user's ten lines -------------------------------------------------------------------------
class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
        self.top = Top()

    def forward(self, user, history, item, features):  # [1], [1, HISTORY], [n], [n, FEATURES] -> [n]
        return self.top(self.users(user), self.items(history).mean(1), self.items(item), features)


class Top(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * DIM + FEATURES, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, user, history, item, features):  # rows: [1, DIM], [1, DIM], [n, DIM], [n, FEATURES]
        once = torch.cat([user, history], 1).expand(item.shape[0], -1)
        return torch.sigmoid(self.layers(torch.cat([once, item, features], 1))).squeeze(1)


# --- what is added --------------------------------------------------------------------------------
class ServedRanker(OwnModel):
    schema = Schema(
        tables=(Table("users", USERS, DIM), Table("items", ITEMS, DIM)),
        inputs=(
            SparseInput("user", "users", per=Per.QUERY),
            SparseInput("history", "items", HISTORY, Pooling.MEAN, Per.QUERY),
            SparseInput("item", "items"),
            DenseInput("features", FEATURES),
        ),
    )
    dense_prefix = "top."  # the dense stage's weights are Ranker.top's

    def dense_stage(self):
        return Top()
