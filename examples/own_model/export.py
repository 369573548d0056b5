"""Writes the example's weights and exports to a folder: `python examples/own_model/export.py DIR`."""

import sys
from pathlib import Path

import torch
from model import FEATURES, HISTORY, Ranker
from safetensors.torch import save_file

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(7)  # a trained model would be loaded here
ranker = Ranker().eval()

save_file(ranker.state_dict(), folder / "ranker.safetensors")
torch.save(ranker.state_dict(), folder / "ranker.pt")

n = torch.export.Dim("n")  # items of a query; an input whose first dimension stays 1 is the query's own
example = (
    torch.tensor([3]),
    torch.arange(HISTORY)[None],
    torch.arange(5),
    torch.randn(5, FEATURES),
)
program = torch.export.export(ranker, example, dynamic_shapes=({}, {}, {0: n}, {0: n}))
torch.export.save(program, folder / "ranker.pt2")
torch.onnx.export(program, dynamo=True).save(folder / "ranker.onnx", external_data=True)
print(*sorted(p.name for p in folder.iterdir()))
