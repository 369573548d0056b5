"""Tune a model, simulate a larger machine, plot both: python examples/tune_simulate_plot.py MODEL SECONDS"""

import sys

import deeprecsys as dr

model, seconds = sys.argv[1:] or ("wnd", 28)

found = dr.tune(model, sla_ms=25, rows_scale=0.1, engine="compiled", budget=float(seconds))
print(found)
found.plot().savefig(f"{model}.png")
found.save(f"runs/{model}")  # for `deeprecsys report` and dr.load_run

larger = dr.simulate(found, found.policy, workers=16, sla_ms=25)
print(f"16 such cores would carry {larger.qps:,.0f} queries/s; these carry {found.tuned.qps:,.0f}")
larger.plot().savefig(f"{model}-16-cores.png")
