"""Which cell goes to which node: a decision that needs no cluster to be tested."""

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


def waiting(name="cell", model="resnet18", lost_on=(), **needs):
    return WaitingCell(
        Job(Cell(name, (model,), {key: float(value) for key, value in needs.items()}), name), (), {*lost_on}
    )


def state(*nodes, used=None, avoided=(), seen=None):
    return ClusterState(nodes, used or {}, avoided, seen or {})


def test_a_cell_takes_all_cores_of_a_node_so_that_nothing_runs_beside_what_is_measured():
    choice = choose_assignment([waiting()], state(PLAIN), None)
    assert choice.claim == {"CPU": 8.0}
    assert choose_assignment([waiting()], state(PLAIN, used=sum_claims([("1", choice.claim)])), None) is None


def test_with_cpus_given_as_many_cells_share_a_node_as_fit():
    used = sum_claims([("1", {"CPU": 3.0}), ("1", {"CPU": 3.0})])
    assert choose_assignment([waiting()], state(PLAIN, used=used), 2.0).claim == {"CPU": 2.0}
    assert choose_assignment([waiting()], state(PLAIN, used=used), 3.0) is None


def test_a_cell_that_needs_a_resource_goes_where_that_is():
    assert choose_assignment([waiting(sm87=1)], state(PLAIN, SERVER, ORIN), None).node is ORIN


def test_a_cell_that_needs_a_resource_that_is_taken_waits():
    assert (
        choose_assignment([waiting(sm87=1)], state(PLAIN, ORIN, used={"2": {"CPU": 12.0, "sm87": 1.0}}), None) is None
    )


def test_no_node_is_able_where_none_has_enough():
    assert find_suitable_nodes([PLAIN, ORIN, SERVER], {"sm87": 2.0}, None) == []
    assert find_suitable_nodes([PLAIN, ORIN, SERVER], {"sm90": 2.0}, None) == [SERVER]


def test_a_gpu_is_claimed_with_the_resource_that_names_it_so_that_ray_shows_it():
    assert SERVER.compute_claim({"sm90": 1.0}, 4.0) == {"CPU": 4.0, "sm90": 1.0, "GPU": 1.0}
    assert ORIN.compute_claim({"sm87": 1.0}, 4.0) == {"CPU": 4.0, "sm87": 1.0}
    assert SERVER.compute_claim({}, 4.0) == {"CPU": 4.0}


def test_a_head_without_cores_gets_nothing():
    assert choose_assignment([waiting()], state(HEAD), None) is None


def test_a_lost_cell_goes_elsewhere_and_waits_for_that():
    lost = waiting(lost_on="1")
    assert choose_assignment([lost], state(PLAIN, ORIN), None).node is ORIN
    assert choose_assignment([lost], state(PLAIN, ORIN, used={"2": {"CPU": 12.0}}), None) is None


def test_a_lost_cell_goes_back_where_there_is_no_other_node():
    assert choose_assignment([waiting(lost_on="1")], state(PLAIN), None).node is PLAIN


def test_a_node_that_is_avoided_gets_nothing():
    assert choose_assignment([waiting()], state(PLAIN, avoided={"1"}), None) is None


def test_a_node_goes_on_with_the_network_that_it_knows_and_another_begins_a_new_one():
    cells = [waiting("a", "resnet18"), waiting("b", "vgg16"), waiting("c", "densenet121")]
    seen = {"1": {"vgg16"}, "2": {"resnet18"}}
    assert choose_assignment(cells, state(PLAIN, seen=seen), None).waiting is cells[1]
    assert choose_assignment(cells, state(SERVER, seen=seen), None).waiting is cells[2]
