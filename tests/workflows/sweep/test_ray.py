"""A sweep on a real Ray cluster of several nodes, all on this machine: nodes and processes are actually killed."""

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

    created = Cluster()
    created.add_node(**NODE, include_dashboard=False)
    created.add_node(**NODE)
    yield created
    ray.shutdown()
    created.shutdown()


@pytest.fixture
def add_node(cluster, wait_until):
    """Adds nodes, which the test may kill and which are removed after it: every test starts with two nodes."""
    created = []

    def add(**resources):
        created.append(cluster.add_node(**NODE, resources=resources))
        return created[-1]

    yield add
    for node in created:
        with contextlib.suppress(KeyError):  # it is gone
            cluster.remove_node(node)
    wait_until(lambda: sum(entry["Alive"] for entry in cluster.global_state.node_table()) == 2)


@pytest.fixture
def create_executor(cluster, workplace):
    def make(**options):
        return RayExecutor(
            cluster.address, workplace.folder, FleetOptions(**options), workplace.told, None, workplace.program
        )

    return make


def states(result):
    return {cell.cell.name: cell.state for cell in result.cells}


def with_cells(sweep, *cells):
    return msgspec.structs.replace(sweep, cells=(*sweep.cells, *cells))


def test_cells_are_returned_from_the_nodes_unchanged(workplace, create_executor):
    result = workplace.run(workplace.sweep(one="fine", two="fine", three="fine", four="marked"), create_executor())
    assert states(result) == {"one": "passed", "two": "passed", "three": "passed", "four": "marked"}
    assert len({attempt.node for cell in result.cells for attempt in cell.attempts}) == 2
    assert (workplace.destination / "report.html").is_file()


def test_a_network_exported_on_a_node_yields_a_bundle_that_verifies_locally(cluster, workplace):
    words = ("nin_cifar10", "--fp16", "--data", "synthetic", "--samples", "4", "--batch", "1:2:4")
    sweep = with_cells(workplace.sweep(), Cell("nin", (*words, "--target", "onnxruntime")))
    real = RayExecutor(cluster.address, workplace.folder, FleetOptions(), workplace.told)
    result = workplace.run(sweep, real)
    assert states(result) == {"nin": "passed"}
    assert result.cells[0].figures.snr_db > 40
    assert load.verify(workplace.destination / "nin").parity.passed


def test_finished_cells_are_not_repeated_on_a_cluster(workplace, create_executor):
    sweep = workplace.sweep(one="fine", two="fine")
    workplace.run(sweep, create_executor())
    assert workplace.run(sweep, create_executor()).reused == 2
    assert len(workplace.begun("one")) == 1


def test_a_cell_that_reports_a_failure_is_not_retried_on_another_node(workplace, create_executor):
    result = workplace.run(workplace.sweep(one="refused", two="crashing", three="fine"), create_executor())
    assert states(result) == {"one": "failed", "two": "failed", "three": "passed"}
    assert len(workplace.begun("one")) == len(workplace.begun("two")) == 1
    assert "there is nothing in this network" in result.cells[0].error


def test_a_cell_whose_process_is_always_killed_is_retried_and_then_abandoned(workplace, create_executor):
    result = workplace.run(workplace.sweep(one="killed", two="fine"), create_executor(attempts=2))
    assert states(result) == {"one": "failed", "two": "passed"}
    assert result.cells[0].error.startswith("lost 2 times")
    assert len({attempt.node for attempt in result.cells[0].attempts}) == 2


def test_after_a_node_dies_every_cell_finishes_exactly_once(
    workplace, create_executor, cluster, add_node, alive, wait_until, capfd
):
    nodes = [add_node(sm87=1), add_node(sm87=1)]
    sweep = with_cells(workplace.sweep(a="fine", b="fine"), Cell("held", ("once",), {"sm87": 1}))
    sweep = with_cells(sweep, *workplace.sweep(c="fine", d="fine", e="fine").cells)

    def kill():
        (process,) = workplace.begun("held").values()
        (victim,) = (node for node in nodes if raylet_process(node) in ancestors(process))
        cluster.remove_node(victim, allow_graceful=False)

    killing = workplace.when_begun("held", kill)
    result = workplace.run(sweep, create_executor())
    killing.join()
    assert set(states(result).values()) == {"passed"}
    assert [len(workplace.finished(cell)) for cell in states(result)] == [1] * 6
    held = result.cells[2]
    assert [attempt.lost_reason is None for attempt in held.attempts] == [False, True]
    assert {*workplace.begun("held")} == {attempt.execution for attempt in held.attempts}
    assert workplace.finished("held") == [held.attempts[1].execution]
    wait_until(lambda: not alive(workplace.begun("held")[held.attempts[0].execution]))
    assert capfd.readouterr().out == ""


def raylet_process(node):
    """The process of a node."""
    return node.all_processes["raylet"][0].process.pid


def ancestors(process):
    """Ancestors of a process, by process id."""
    collected = []
    while process > 1:
        process = int(Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[1])
        collected.append(process)
    return collected


def test_a_cell_runs_on_a_node_with_the_resource_it_requires(workplace, create_executor, cluster, add_node):
    add_node(sm90=1)
    table = cluster.global_state.node_table()
    (owner,) = (node["NodeID"] for node in table if "sm90" in node["Resources"])
    sweep = with_cells(workplace.sweep(a="fine"), *(Cell(name, ("fine",), {"sm90": 1}) for name in ("b", "c")))
    result = workplace.run(sweep, create_executor())
    places = {cell.cell.name: cell.attempts[0].node for cell in result.cells}
    assert owner[:8] in places["b"]
    assert owner[:8] in places["c"]


def test_an_unschedulable_cell_is_reported_with_the_command_that_adds_a_node(workplace, create_executor):
    sweep = with_cells(workplace.sweep(a="fine"), Cell("b", ("fine",), {"sm87": 1}))
    result = workplace.run(sweep, create_executor())
    assert states(result) == {"a": "passed", "b": "failed"}
    assert "no node has sm87 1; the cluster is 2 nodes" in result.cells[1].error
    assert "--resources='{\"sm87\": 1}'" in result.cells[1].error


def test_a_required_node_may_join_later(workplace, create_executor, add_node):
    sweep = with_cells(workplace.sweep(a="fine"), Cell("b", ("fine",), {"sm101": 1}))
    result = workplace.run(sweep, create_executor(wait_minutes=10), told=lambda _: add_node(sm101=1))
    assert states(result) == {"a": "passed", "b": "passed"}


def test_a_checkpoint_in_the_sweep_folder_is_sent_to_the_node(workplace, create_executor):
    (workplace.folder / "mine").mkdir()
    (workplace.folder / "mine" / "weights.pth").write_text("the checkpoint")
    sweep = with_cells(workplace.sweep(), Cell("a", ("reading", "--weights", "mine/weights.pth")))
    assert workplace.run(sweep, create_executor()).good
    (read,) = workplace.marks.glob("read-*")
    assert read.read_text() == "mine/weights.pth the checkpoint"


def test_a_file_outside_the_sweep_folder_is_refused_with_a_remedy(workplace, create_executor):
    (workplace.folder.parent / "weights.pth").write_text("the checkpoint")
    sweep = with_cells(workplace.sweep(b="fine"), Cell("a", ("reading", "--weights", "../weights.pth")))
    result = workplace.run(sweep, create_executor())
    assert states(result) == {"b": "passed", "a": "failed"}
    assert "only files of that folder are sent" in result.cells[1].error


def test_a_bundle_damaged_in_transit_is_requested_again(workplace, create_executor, monkeypatch):
    whole, damaged = archive.unpack_archive, []

    def flip_once(pieces, label, folder):
        content = bytearray(b"".join(pieces))
        if not damaged:
            content[len(content) // 2] ^= 1
            damaged.append(folder)
        whole([bytes(content)], label, folder)

    monkeypatch.setattr(archive, "unpack_archive", flip_once)
    result = workplace.run(workplace.sweep(a="fine"), create_executor())
    assert result.good
    assert "damaged in transfer" in result.cells[0].attempts[0].lost_reason
    assert not list(workplace.destination.glob(".a.*"))


def test_an_unrelated_bundle_is_not_replaced(workplace, create_executor):
    workplace.run(workplace.sweep(a="fine"), create_executor())
    changed = workplace.sweep(a="fine-changed", b="fine")
    result = workplace.run(changed, create_executor())
    assert states(result) == {"a": "failed", "b": "passed"}
    assert "--force" in result.cells[0].error
    assert workplace.run(changed, create_executor(), force=True).good


def test_ctrl_c_preserves_finished_cells_and_stops_every_process(workplace, create_executor, alive, wait_until):
    sweep = workplace.sweep(one="fine", two="once")
    recorded = []

    def interrupt():
        wait_until(lambda: recorded)
        os.kill(os.getpid(), signal.SIGINT)

    watching = workplace.when_begun("two", interrupt)
    result = workplace.run(sweep, create_executor(), told=recorded.append)
    watching.join()
    assert result.interrupted
    assert states(result) == {"one": "passed", "two": "waiting"}
    wait_until(lambda: not any(map(alive, workplace.begun("two").values())))


def test_a_missing_cluster_is_an_error_of_one_sentence(workplace):
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
