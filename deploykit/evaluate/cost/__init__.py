"""What a candidate's precision costs at each output, in the terms of the output's kind.

    infer_kind, resolve_kinds    which kind an output is: from its shape and values, or as the user says
    measure_cost                 the figures of that kind
    judge_cost                   the same figures with the default bounds
    find_cost_caveats            where the samples hold too little of what is to be found
    measure_drop                 top-1 drop on labelled samples

One signal-to-noise ratio for everything is wrong both ways: a mask whose probabilities are off by a tenth is the same
mask, and a tensor of boxes and scores hides the scores behind coordinates of hundreds of pixels. Each kind therefore
has a file with its figures and its bounds. The bounds separate broken from imprecise, and no more: what an application
can afford is a budget of its user's.
"""

from __future__ import annotations

from deploykit.evaluate.cost.drop import measure_drop
from deploykit.evaluate.cost.judge import find_cost_caveats, judge_cost, measure_cost, split_parts
from deploykit.evaluate.cost.kinds import infer_kind, resolve_kinds

__all__ = [
    "find_cost_caveats",
    "infer_kind",
    "judge_cost",
    "measure_cost",
    "measure_drop",
    "resolve_kinds",
    "split_parts",
]
