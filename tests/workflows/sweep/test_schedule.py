"""Assignment of cells to nodes, tested without a cluster."""

from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep.cluster import Node
from deploykit.workflows.sweep.outcome import Job
from deploykit.workflows.sweep.schedule import (
    ClusterState,
    WaitingCell,
    choose_assignment,
    find_suitable_nodes,
    sum_claims,
)

PLAIN = Node("1", "plain", {"CPU": 8.0})
ORIN = Node("2", "orin", {"CPU": 12.0, "sm87": 1.0})
SERVER = Node("3", "server", {"CPU": 64.0, "GPU": 2.0, "sm90": 2.0})
HEAD = Node("4", "head", {})


def waiting_cell(name="cell", model="resnet18", lost_on=(), **needs):
    return WaitingCell(
        Job(Cell(name, (model,), {key: float(value) for key, value in needs.items()}), name), (), {*lost_on}
    )


def cluster_state(*nodes, used=None, avoided=(), seen=None):
    return ClusterState(nodes, used or {}, avoided, seen or {})


def test_a_cell_uses_all_cores_of_a_node_by_default_so_that_latency_is_undisturbed():
    choice = choose_assignment([waiting_cell()], cluster_state(PLAIN), None)
    assert choice.claim == {"CPU": 8.0}
    assert (
        choose_assignment([waiting_cell()], cluster_state(PLAIN, used=sum_claims([("1", choice.claim)])), None) is None
    )


def test_with_a_cpu_count_per_cell_several_cells_share_a_node():
    used = sum_claims([("1", {"CPU": 3.0}), ("1", {"CPU": 3.0})])
    assert choose_assignment([waiting_cell()], cluster_state(PLAIN, used=used), 2.0).claim == {"CPU": 2.0}
    assert choose_assignment([waiting_cell()], cluster_state(PLAIN, used=used), 3.0) is None


def test_a_cell_is_scheduled_on_a_node_with_its_resource():
    assert choose_assignment([waiting_cell(sm87=1)], cluster_state(PLAIN, SERVER, ORIN), None).node is ORIN


def test_a_cell_waits_for_a_resource_in_use():
    assert (
        choose_assignment(
            [waiting_cell(sm87=1)], cluster_state(PLAIN, ORIN, used={"2": {"CPU": 12.0, "sm87": 1.0}}), None
        )
        is None
    )


def test_a_cell_that_fits_no_node_is_unschedulable():
    assert find_suitable_nodes([PLAIN, ORIN, SERVER], {"sm87": 2.0}, None) == []
    assert find_suitable_nodes([PLAIN, ORIN, SERVER], {"sm90": 2.0}, None) == [SERVER]


def test_a_gpu_is_claimed_together_with_its_named_resource():
    assert SERVER.compute_claim({"sm90": 1.0}, 4.0) == {"CPU": 4.0, "sm90": 1.0, "GPU": 1.0}
    assert ORIN.compute_claim({"sm87": 1.0}, 4.0) == {"CPU": 4.0, "sm87": 1.0}
    assert SERVER.compute_claim({}, 4.0) == {"CPU": 4.0}


def test_a_head_node_without_cores_gets_no_cells():
    assert choose_assignment([waiting_cell()], cluster_state(HEAD), None) is None


def test_a_lost_cell_waits_for_another_node():
    lost = waiting_cell(lost_on="1")
    assert choose_assignment([lost], cluster_state(PLAIN, ORIN), None).node is ORIN
    assert choose_assignment([lost], cluster_state(PLAIN, ORIN, used={"2": {"CPU": 12.0}}), None) is None


def test_a_lost_cell_returns_to_its_node_if_there_is_no_other():
    assert choose_assignment([waiting_cell(lost_on="1")], cluster_state(PLAIN), None).node is PLAIN


def test_an_avoided_node_gets_no_cells():
    assert choose_assignment([waiting_cell()], cluster_state(PLAIN, avoided={"1"}), None) is None


def test_a_node_continues_with_its_network_and_another_node_starts_the_next_network():
    cells = [waiting_cell("a", "resnet18"), waiting_cell("b", "vgg16"), waiting_cell("c", "densenet121")]
    built = {"1": {"vgg16"}, "2": {"resnet18"}}
    assert choose_assignment(cells, cluster_state(PLAIN, seen=built), None).waiting is cells[1]
    assert choose_assignment(cells, cluster_state(SERVER, seen=built), None).waiting is cells[2]
