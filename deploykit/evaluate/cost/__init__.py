"""stub until merged"""

from deploykit.core.values import OutputCost


def split_parts(kind, array):
    return {"": array}


def resolve_kinds(outputs, head, said):
    return dict.fromkeys(outputs, "tensor")


def measure_cost(name, kind, reference, candidate):
    return OutputCost(name, kind, ())


def judge_cost(cost):
    return cost
