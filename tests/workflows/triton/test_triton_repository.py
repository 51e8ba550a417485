"""Updates preserve a repository: versions are added, a tuned config is preserved, and mismatches are refused."""

import pytest

from deploykit.core.errors import InputError
from deploykit.workflows.triton.config import format_config
from deploykit.workflows.triton.model_config import InstanceGroup, ModelConfig, TensorConfig
from deploykit.workflows.triton.repository import ModelFiles, check_model, place_model, write_file


def model(name="net", classes=10, **fields):
    inputs, outputs = (TensorConfig("input", "float32", (3, 8, 8)),), (TensorConfig("logits", "float32", (classes,)),)
    return ModelConfig(name, "onnxruntime_onnx", inputs, outputs, 8, instances=InstanceGroup("auto"), **fields)


def model_files(graph=b"graph", labels=b"cat\ndog\n", warmup=b"\0\0"):
    return ModelFiles({"labels.txt": labels, "warmup/input-0.bin": warmup}, {"model.onnx": graph})


@pytest.fixture
def put_model(tmp_path):
    def call(made=None, held=None, version=None, force=False, statements=()):
        return place_model(tmp_path / "models", made or model(), held or model_files(), statements, version, force)

    return call


def test_a_new_model_has_version_1(put_model, tmp_path):
    assert put_model().version == 1
    folder = tmp_path / "models/net"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "config.pbtxt", "labels.txt", "warmup/input-0.bin", "1/model.onnx"
    }  # fmt: skip


def test_another_graph_becomes_the_next_version_and_other_files_are_unchanged(put_model, tmp_path, snapshot):
    put_model()
    before = snapshot(tmp_path / "models/net/1"), snapshot(tmp_path / "models/net/warmup")
    assert put_model(held=model_files(b"better")).version == 2
    assert (snapshot(tmp_path / "models/net/1"), snapshot(tmp_path / "models/net/warmup")) == before
    assert (tmp_path / "models/net/2/model.onnx").read_bytes() == b"better"


def test_the_same_graph_again_writes_nothing(put_model, tmp_path, snapshot):
    put_model()
    before = snapshot(tmp_path)
    placed = put_model()
    assert (placed.version, placed.present) == (1, True)
    assert snapshot(tmp_path) == before


def test_an_older_graph_is_written_as_a_new_version_because_triton_serves_the_highest(put_model):
    put_model(held=model_files(b"first"))
    put_model(held=model_files(b"second"))
    assert put_model(held=model_files(b"first")).version == 3


def test_an_additional_file_makes_a_version_different(put_model, tmp_path):
    put_model()
    (tmp_path / "models/net/1/notes.txt").write_text("tried on Tuesday")
    assert put_model().version == 2


def test_versions_may_be_numbered_explicitly(put_model):
    assert put_model(version=20261122).version == 20261122
    assert put_model(held=model_files(b"better")).version == 20261123


def test_a_version_below_the_highest_is_reported_as_not_served(put_model):
    put_model(version=5)
    assert put_model(held=model_files(b"better"), version=3).caveats == (
        "Triton serves version 5, the highest, unless version_policy says otherwise",
    )


def test_an_existing_version_is_never_overwritten(put_model, tmp_path):
    put_model()
    with pytest.raises(InputError, match="1 exists with other files"):
        put_model(held=model_files(b"better"), version=1, force=True)
    assert (tmp_path / "models/net/1/model.onnx").read_bytes() == b"graph"


def test_folders_that_are_not_versions_are_ignored(put_model, tmp_path):
    put_model()
    for name in ("2-old", "٣", "0"):
        (tmp_path / "models/net" / name).mkdir()
    assert put_model(held=model_files(b"better")).version == 2


# ── shared by all versions ────────────────────────────────────────────────────────────────────────────────────────────


def tune_config(tmp_path):
    config = tmp_path / "models/net/config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 4"))
    return config.read_text()


def test_a_hand_tuned_config_is_preserved(put_model, tmp_path):
    put_model()
    before = tune_config(tmp_path)
    [statement] = put_model(held=model_files(b"better")).caveats
    assert "config.pbtxt was not changed; --force would rewrite it: − count: 4, + count: 1" in statement
    assert (tmp_path / "models/net/config.pbtxt").read_text() == before


def test_many_changes_are_counted_and_not_listed(put_model, tmp_path):
    put_model()
    config = tmp_path / "models/net/config.pbtxt"
    config.write_text(config.read_text() + "# a note\n" * 7)
    [statement] = put_model().caveats
    assert statement.endswith("7 lines differ")


def test_with_force_the_config_is_rewritten_and_the_former_one_is_backed_up(put_model, tmp_path):
    put_model()
    before = tune_config(tmp_path)
    assert put_model(force=True).caveats == ("the old config.pbtxt is kept as config.pbtxt.1",)
    assert (tmp_path / "models/net/config.pbtxt").read_text() == format_config(model())
    assert (tmp_path / "models/net/config.pbtxt.1").read_text() == before


def test_a_backup_is_not_overwritten_by_the_next_one(put_model, tmp_path):
    put_model()
    first = tune_config(tmp_path)
    put_model(force=True)
    tune_config(tmp_path)
    put_model(force=True)
    assert (tmp_path / "models/net/config.pbtxt.1").read_text() == first
    assert (tmp_path / "models/net/config.pbtxt.2").exists()


def test_another_interface_is_refused_and_both_are_named(put_model, tmp_path, snapshot):
    put_model()
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as refusal:
        put_model(model(classes=100), model_files(b"better"))
    assert "'logits' float32 10; the bundle's is" in str(refusal.value)
    assert "'logits' float32 100" in str(refusal.value)
    assert "--name" in refusal.value.remedy
    assert snapshot(tmp_path) == before


def test_with_force_another_interface_is_written_and_the_former_config_is_backed_up(put_model, tmp_path):
    put_model()
    assert put_model(model(classes=100), model_files(b"better"), force=True).version == 2
    assert "dims: [ 10 ]" in (tmp_path / "models/net/config.pbtxt.1").read_text()
    assert "dims: [ 100 ]" in (tmp_path / "models/net/config.pbtxt").read_text()


def test_other_labels_are_refused(put_model):
    put_model()
    with pytest.raises(InputError, match=r"labels.txt has other classes"):
        put_model(held=model_files(b"better", labels=b"dog\ncat\n"))


def test_with_force_other_labels_are_written_and_the_former_ones_are_backed_up(put_model, tmp_path):
    put_model()
    put_model(held=model_files(b"better", labels=b"dog\ncat\n"), force=True)
    assert (tmp_path / "models/net/labels.txt").read_bytes() == b"dog\ncat\n"
    assert (tmp_path / "models/net/labels.txt.1").read_bytes() == b"cat\ndog\n"


def test_other_warm_up_samples_change_nothing(put_model, tmp_path):
    put_model()
    assert put_model(held=model_files(warmup=b"\1\1")).present
    assert (tmp_path / "models/net/warmup/input-0.bin").read_bytes() == b"\0\0"


def test_missing_warm_up_files_are_restored(put_model, tmp_path):
    put_model()
    (tmp_path / "models/net/warmup/input-0.bin").unlink()
    put_model()
    assert (tmp_path / "models/net/warmup/input-0.bin").exists()


def test_a_foreign_model_is_refused(put_model, tmp_path):
    (tmp_path / "models/net").mkdir(parents=True)
    (tmp_path / "models/net/config.pbtxt").write_text('name: "net"')
    with pytest.raises(InputError, match="was not written by deploykit"):
        put_model()


def test_a_folder_that_is_not_a_model_is_refused_even_with_force(put_model, tmp_path):
    (tmp_path / "models/net").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no config.pbtxt"):
        put_model(force=True)


def test_a_repository_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "models").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        check_model(tmp_path / "models", model(), model_files(), None, False)


def test_a_repository_below_a_file_is_refused_and_the_file_named(tmp_path):
    (tmp_path / "notes").write_text("")
    with pytest.raises(InputError, match=r"notes is not a folder"):
        check_model(tmp_path / "notes" / "models", model(), model_files(), None, False)


def test_an_interrupted_copy_leaves_no_files(put_model, tmp_path):
    with pytest.raises(FileNotFoundError):
        put_model(held=ModelFiles({}, {"model.onnx": tmp_path / "gone.onnx"}))
    assert list((tmp_path / "models").iterdir()) == []


def test_a_version_number_claimed_concurrently_is_not_overwritten(put_model, tmp_path, monkeypatch):
    put_model()
    theirs = tmp_path / "models/net/2/model.onnx"

    def slow(*_):
        theirs.parent.mkdir()
        theirs.write_bytes(b"theirs")
        return ()

    monkeypatch.setattr("deploykit.workflows.triton.repository._write_shared", slow)
    with pytest.raises(InputError, match="was created by another process in the meantime"):
        put_model(held=model_files(b"ours"))
    assert theirs.read_bytes() == b"theirs"
    assert sorted(path.name for path in (tmp_path / "models/net").iterdir() if path.is_dir()) == ["1", "2", "warmup"]


def test_a_check_writes_nothing(put_model, tmp_path, snapshot):
    check_model(tmp_path / "models", model(), model_files(), None, False)
    assert not (tmp_path / "models").exists()
    put_model()
    before = snapshot(tmp_path)
    check_model(tmp_path / "models", model(), model_files(b"better"), None, True)
    assert snapshot(tmp_path) == before


def test_a_check_refuses_what_a_write_would_refuse(put_model, tmp_path):
    put_model()
    with pytest.raises(InputError, match="holds a model with another interface"):
        check_model(tmp_path / "models", model(classes=100), model_files(), None, False)
    with pytest.raises(InputError, match="exists with other files"):
        check_model(tmp_path / "models", model(), model_files(b"better"), 1, False)


def test_a_file_is_never_overwritten_without_force(tmp_path):
    write_file(tmp_path / "a.yaml", b"first", force=False)
    write_file(tmp_path / "a.yaml", b"first", force=False)
    with pytest.raises(InputError, match="exists with other content"):
        write_file(tmp_path / "a.yaml", b"second", force=False)
    write_file(tmp_path / "a.yaml", b"second", force=True)
    assert (tmp_path / "a.yaml.1").read_bytes() == b"first"
