"""A sweep on a real Ray cluster of several nodes, all on this machine: nodes and processes are really killed."""

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import pytest

from deploykit.bundle import load
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values.sweeps import Cell, FleetOptions
from deploykit.workflows.sweep import archive
from deploykit.workflows.sweep.ray import RayExecutor

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster()
    made.add_node(**NODE, include_dashboard=False)
    made.add_node(**NODE)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def add_node(cluster, wait_until):
    """Adds nodes, which the test may kill and which go with it: the next test finds two alive, as this one did."""
    made = []

    def add(**resources):
        made.append(cluster.add_node(**NODE, resources=resources))
        return made[-1]

    yield add
    for node in made:
        with contextlib.suppress(KeyError):  # it is gone
            cluster.remove_node(node)
    wait_until(lambda: sum(each["Alive"] for each in cluster.global_state.node_table()) == 2)


@pytest.fixture
def fleet(cluster, workplace):
    def make(**options):
        return RayExecutor(
            cluster.address, workplace.folder, FleetOptions(**options), workplace.told, None, workplace.program
        )

    return make


def states(result):
    return {each.cell.name: each.state for each in result.cells}


def with_cells(sweep, *cells):
    return msgspec.structs.replace(sweep, cells=(*sweep.cells, *cells))


def test_cells_come_back_from_the_nodes_as_they_were_made(workplace, fleet):
    result = workplace.run(workplace.sweep(one="fine", two="fine", three="fine", four="marked"), fleet())
    assert states(result) == {"one": "passed", "two": "passed", "three": "passed", "four": "marked"}
    assert len({attempt.node for each in result.cells for attempt in each.attempts}) == 2
    assert (workplace.destination / "report.html").is_file()


def test_a_network_is_really_exported_on_a_node_and_its_bundle_verifies_here(cluster, workplace):
    words = ("nin_cifar10", "--fp16", "--data", "synthetic", "--samples", "4", "--batch", "1:2:4")
    sweep = with_cells(workplace.sweep(), Cell("nin", (*words, "--target", "onnxruntime")))
    real = RayExecutor(cluster.address, workplace.folder, FleetOptions(), workplace.told)
    result = workplace.run(sweep, real)
    assert states(result) == {"nin": "passed"}
    assert result.cells[0].figures.snr_db > 40
    assert load.verify(workplace.destination / "nin").parity.passed


def test_finished_cells_are_not_made_again_on_a_cluster_either(workplace, fleet):
    sweep = workplace.sweep(one="fine", two="fine")
    workplace.run(sweep, fleet())
    assert workplace.run(sweep, fleet()).reused == 2
    assert len(workplace.begun("one")) == 1


def test_a_cell_that_fails_by_itself_is_not_tried_elsewhere(workplace, fleet):
    result = workplace.run(workplace.sweep(one="refused", two="crashing", three="fine"), fleet())
    assert states(result) == {"one": "failed", "two": "failed", "three": "passed"}
    assert len(workplace.begun("one")) == len(workplace.begun("two")) == 1
    assert "there is nothing in this network" in result.cells[0].error


def test_a_cell_whose_process_is_always_killed_is_tried_elsewhere_and_at_last_given_up(workplace, fleet):
    result = workplace.run(workplace.sweep(one="killed", two="fine"), fleet(attempts=2))
    assert states(result) == {"one": "failed", "two": "passed"}
    assert result.cells[0].error.startswith("lost 2 times")
    assert len({attempt.node for attempt in result.cells[0].attempts}) == 2


def test_every_cell_is_there_and_none_was_finished_twice_where_a_node_dies(
    workplace, fleet, cluster, add_node, alive, wait_until, capfd
):
    nodes = [add_node(sm87=1), add_node(sm87=1)]
    sweep = with_cells(workplace.sweep(a="fine", b="fine"), Cell("held", ("once",), {"sm87": 1}))
    sweep = with_cells(sweep, *workplace.sweep(c="fine", d="fine", e="fine").cells)

    def kill():
        (process,) = workplace.begun("held").values()
        (victim,) = (node for node in nodes if raylet(node) in ancestors(process))
        cluster.remove_node(victim, allow_graceful=False)

    killing = workplace.when_begun("held", kill)
    result = workplace.run(sweep, fleet())
    killing.join()
    assert set(states(result).values()) == {"passed"}
    assert [len(workplace.finished(cell)) for cell in states(result)] == [1] * 6
    held = result.cells[2]
    assert [attempt.lost_reason is None for attempt in held.attempts] == [False, True]
    assert {*workplace.begun("held")} == {attempt.execution for attempt in held.attempts}
    assert workplace.finished("held") == [held.attempts[1].execution]
    wait_until(lambda: not alive(workplace.begun("held")[held.attempts[0].execution]))
    assert capfd.readouterr().out == ""


def raylet(node):
    """The process that is a node."""
    return node.all_processes["raylet"][0].process.pid


def ancestors(process):
    """Of a process, by their identities."""
    found = []
    while process > 1:
        process = int(Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


def test_a_cell_that_needs_a_resource_runs_on_the_node_that_has_it(workplace, fleet, cluster, add_node):
    add_node(sm90=1)
    table = cluster.global_state.node_table()
    (owner,) = (each["NodeID"] for each in table if "sm90" in each["Resources"])
    sweep = with_cells(workplace.sweep(a="fine"), *(Cell(name, ("fine",), {"sm90": 1}) for name in ("b", "c")))
    result = workplace.run(sweep, fleet())
    places = {each.cell.name: each.attempts[0].node for each in result.cells}
    assert owner[:8] in places["b"]
    assert owner[:8] in places["c"]


def test_a_cell_that_no_node_can_take_is_said_with_the_command_that_helps(workplace, fleet):
    sweep = with_cells(workplace.sweep(a="fine"), Cell("b", ("fine",), {"sm87": 1}))
    result = workplace.run(sweep, fleet())
    assert states(result) == {"a": "passed", "b": "failed"}
    assert "no node has sm87 1; the cluster is 2 nodes" in result.cells[1].error
    assert "--resources='{\"sm87\": 1}'" in result.cells[1].error


def test_a_node_that_is_waited_for_may_come_later(workplace, fleet, add_node):
    sweep = with_cells(workplace.sweep(a="fine"), Cell("b", ("fine",), {"sm101": 1}))
    result = workplace.run(sweep, fleet(wait_minutes=10), told=lambda _: add_node(sm101=1))
    assert states(result) == {"a": "passed", "b": "passed"}


def test_a_checkpoint_beside_the_sweep_reaches_the_node(workplace, fleet):
    (workplace.folder / "mine").mkdir()
    (workplace.folder / "mine" / "weights.pth").write_text("the checkpoint")
    sweep = with_cells(workplace.sweep(), Cell("a", ("reading", "--weights", "mine/weights.pth")))
    assert workplace.run(sweep, fleet()).good
    (read,) = workplace.marks.glob("read-*")
    assert read.read_text() == "mine/weights.pth the checkpoint"


def test_a_file_outside_of_the_sweeps_folder_is_refused_with_the_way_out(workplace, fleet):
    (workplace.folder.parent / "weights.pth").write_text("the checkpoint")
    sweep = with_cells(workplace.sweep(b="fine"), Cell("a", ("reading", "--weights", "../weights.pth")))
    result = workplace.run(sweep, fleet())
    assert states(result) == {"b": "passed", "a": "failed"}
    assert "only files of that folder are sent" in result.cells[1].error


def test_a_bundle_that_is_damaged_on_the_way_is_asked_for_again(workplace, fleet, monkeypatch):
    whole, damaged = archive.unpack_archive, []

    def flip_once(pieces, label, folder):
        content = bytearray(b"".join(pieces))
        if not damaged:
            content[len(content) // 2] ^= 1
            damaged.append(folder)
        whole([bytes(content)], label, folder)

    monkeypatch.setattr(archive, "unpack_archive", flip_once)
    result = workplace.run(workplace.sweep(a="fine"), fleet())
    assert result.good
    assert "damaged in transfer" in result.cells[0].attempts[0].lost_reason
    assert not list(workplace.destination.glob(".a.*"))


def test_a_bundle_of_something_else_is_not_replaced(workplace, fleet):
    workplace.run(workplace.sweep(a="fine"), fleet())
    changed = workplace.sweep(a="fine-changed", b="fine")
    result = workplace.run(changed, fleet())
    assert states(result) == {"a": "failed", "b": "passed"}
    assert "--force" in result.cells[0].error
    assert workplace.run(changed, fleet(), force=True).good


def test_ctrl_c_leaves_what_is_finished_and_nothing_runs_on(workplace, fleet, alive, wait_until):
    sweep = workplace.sweep(one="fine", two="once")
    seen = []

    def interrupt():
        wait_until(lambda: seen)
        os.kill(os.getpid(), signal.SIGINT)

    watching = workplace.when_begun("two", interrupt)
    result = workplace.run(sweep, fleet(), told=seen.append)
    watching.join()
    assert result.interrupted
    assert states(result) == {"one": "passed", "two": "waiting"}
    wait_until(lambda: not any(map(alive, workplace.begun("two").values())))


def test_no_cluster_is_said_in_a_sentence(workplace):
    unreachable = RayExecutor("127.0.0.1:1", workplace.folder, FleetOptions(), workplace.told)
    with pytest.raises(BackendError, match=r"cannot be reached"):
        workplace.run(workplace.sweep(a="fine"), unreachable)


def test_an_address_without_a_port_is_refused(workplace):
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        workplace.run(
            workplace.sweep(a="fine"), RayExecutor("somewhere", workplace.folder, FleetOptions(), workplace.told)
        )


def test_the_address_of_a_ray_client_is_refused_before_any_work(workplace):
    with pytest.raises(UsageError, match="ray job submit"):
        RayExecutor("ray://somewhere:10001", workplace.folder, FleetOptions(), workplace.told)
