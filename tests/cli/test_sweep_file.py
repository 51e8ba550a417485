"""sweep.toml: its cells, and invalid entries."""

import pytest

from deploykit.cli import sweep_file
from deploykit.core.errors import InputError

MODEL = '[matrix]\nmodel = ["resnet18"]\n'


@pytest.fixture
def read_sweep_text(tmp_path):
    def write_and_read(text):
        path = tmp_path / "sweep.toml"
        path.write_text(text, encoding="utf-8")
        return sweep_file.read_sweep(path)

    return write_and_read


@pytest.fixture
def cells(read_sweep_text):
    return lambda text: {cell.name: cell for cell in read_sweep_text(text).cells}


@pytest.fixture
def refusal(read_sweep_text, tmp_path):
    def why(text):
        with pytest.raises(InputError) as refused:
            read_sweep_text(text)
        assert str(tmp_path / "sweep.toml") in refused.value.what
        return refused.value.what.partition("sweep.toml: ")[2]

    return why


def arguments(cell):
    return " ".join(cell.export_arguments)


# ── Cells ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_combination_is_a_cell_with_its_name(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18", "googlenet"]
        precision = ["fp32", "fp16"]
        target = ["onnxruntime", "openvino"]
        batch = ["1:8:32", 4]
    """)
    assert len(expanded) == 16
    assert arguments(expanded["googlenet-fp16-openvino-batch4"]) == "googlenet --fp16 --target openvino --batch 4"
    assert "resnet18-fp32-onnxruntime-batch1-8-32" in expanded


def test_common_settings_apply_to_every_cell(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18"]
        [common]
        samples = 64
        mean = [0.5, 0.5, 0.5]
        model-arg = { num_classes = 10 }
        refittable = true
        strip-weights = false
        target = "tensorrt"
    """)
    assert arguments(expanded["resnet18-fp32-tensorrt"]) == (
        "resnet18 --fp32 --samples 64 --mean 0.5,0.5,0.5 --model-arg num_classes=10 --refittable --target tensorrt"
    )


def test_an_axis_may_have_other_values_for_one_network(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18", "vgg16"]
        weights = ["random", "imagenet"]
        [model.vgg16]
        weights = "mine/vgg16.pth"
        head = "embedding"
    """)
    assert list(expanded) == ["resnet18-fp32-random", "resnet18-fp32-imagenet", "vgg16-fp32-mine-vgg16.pth"]
    assert arguments(expanded["vgg16-fp32-mine-vgg16.pth"]) == "vgg16 --fp32 --head embedding --weights mine/vgg16.pth"


def test_a_specific_table_overrides_a_general_one(cells):
    text = """
        [matrix]
        model = ["resnet18", "vgg16"]
        precision = ["fp32", "bf16"]
        target = ["openvino"]
        [common]
        opset = 18
        [precision.bf16]
        opset = 22
        [model.vgg16]
        opset = 23
    """
    words = {name: cell.export_arguments for name, cell in cells(text).items()}
    opsets = {name: arguments[arguments.index("--opset") + 1] for name, arguments in words.items()}
    assert opsets == {
        "resnet18-fp32-openvino": "18",
        "resnet18-bf16-openvino": "22",
        "vgg16-fp32-openvino": "23",
        "vgg16-bf16-openvino": "23",
    }


def test_int8_options_are_omitted_from_other_cells(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18"]
        precision = ["fp32", "int8-fp16"]
        observer = ["mse", "entropy"]
        [common]
        calibration = "photos"
        io = "fp16"
    """)
    assert {name: arguments(cell) for name, cell in expanded.items()} == {
        "resnet18-fp32": "resnet18 --fp32",
        "resnet18-int8-fp16-observermse": (
            "resnet18 --int8 --fp16 --calibration photos --io fp16 --observer mse"
        ),
        "resnet18-int8-fp16-observerentropy": (
            "resnet18 --int8 --fp16 --calibration photos --io fp16 --observer entropy"
        ),
    }  # fmt: skip


def test_build_options_are_omitted_from_cells_without_a_compiler(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18"]
        target = ["openvino", "tensorrt-rtx"]
        [common]
        workspace = 512
    """)
    assert arguments(expanded["resnet18-fp32-openvino"]) == "resnet18 --fp32 --target openvino"
    assert arguments(expanded["resnet18-fp32-tensorrt-rtx"]) == "resnet18 --fp32 --workspace 512 --target tensorrt-rtx"


def test_a_user_defined_target_has_a_backend_and_required_resources(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18"]
        target = ["orin", "two", "tensorrt", "openvino"]
        [target.orin]
        backend = "tensorrt"
        needs = "sm87"
        workspace = 2048
        [target.two]
        backend = ["tensorrt", "onnxruntime"]
        needs = { sm90 = 2 }
    """)
    assert arguments(expanded["resnet18-fp32-orin"]) == "resnet18 --fp32 --workspace 2048 --target tensorrt"
    assert arguments(expanded["resnet18-fp32-two"]) == "resnet18 --fp32 --target tensorrt --target onnxruntime"
    assert {name: cell.needs for name, cell in expanded.items()} == {
        "resnet18-fp32-orin": {"sm87": 1.0},
        "resnet18-fp32-two": {"sm90": 2.0},
        "resnet18-fp32-tensorrt": {"GPU": 1.0},
        "resnet18-fp32-openvino": {},
    }


def test_a_combination_may_be_excluded(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18", "vgg16"]
        precision = ["fp32", "fp16"]
        [[exclude]]
        model = "vgg16"
        precision = ["fp16", "bf16"]
    """)
    assert list(expanded) == ["resnet18-fp32", "resnet18-fp16", "vgg16-fp32"]


def test_a_combination_that_no_machine_can_export_is_refused_with_the_reason(cells):
    expanded = cells("""
        [matrix]
        model = ["resnet18"]
        precision = ["fp32", "bf16"]
        target = ["onnxruntime", "openvino"]
        [common]
        opset = 22
    """)
    refusals = {name: cell.refusal for name, cell in expanded.items() if cell.refusal is not None}
    assert refusals == {"resnet18-bf16-onnxruntime": "onnxruntime has no BF16 convolutions on a CPU."}


def test_bf16_at_an_unsupported_opset_is_refused_with_the_line_to_change(cells):
    expanded = cells('[matrix]\nmodel = ["resnet18"]\nprecision = ["bf16"]\ntarget = ["openvino"]')
    assert "[precision.bf16] opset = 22" in expanded["resnet18-bf16-openvino"].refusal


def test_names_of_files_and_packages_become_names_of_folders(cells):
    assert list(cells('[matrix]\nmodel = ["nets/a b.onnx", "timm:vit_tiny", "./x.pt2"]')) == [
        "nets-a-b.onnx-fp32",
        "timm-vit_tiny-fp32",
        "x.pt2-fp32",
    ]


def test_every_option_of_export_that_describes_a_bundle_is_a_key():
    assert {"weights", "samples", "calibration-size", "max-drop", "input-size", "exporter"} <= {
        *sweep_file.export_options()
    }
    assert not {"output", "force", "json", "fp16"} & {*sweep_file.export_options()}


def test_how_a_cluster_is_used_is_read(read_sweep_text):
    options = read_sweep_text(
        '[matrix]\nmodel = ["resnet18"]\n[fleet]\ncpus = 2\nattempts = 5\nwait-minutes = 1.5\nship = ["a"]'
    ).fleet
    assert (options.cpus, options.attempts, options.wait_minutes, options.ship) == (2, 5, 1.5, ("a",))


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", '[matrix]: networks are missing: model = ["resnet18"].'),
        (MODEL + "[matrx]", "[matrx]: unknown table 'matrx'; did you mean matrix?"),
        (MODEL + 'precison = ["fp16"]', "[matrix]: unknown key 'precison'; did you mean precision?"),
        (MODEL + 'precision = ["fp8"]', "[matrix] precision: unknown precision 'fp8'"),
        (MODEL + 'precision = "fp16"', '[matrix] precision: write a list, such as precision = ["fp16"].'),
        (MODEL + "precision = []", "[matrix] precision: the list is empty"),
        (MODEL + 'precision = [["fp16"]]', "[matrix] precision: unknown precision \"['fp16']\""),
        (MODEL + "target = [[]]", "[matrix] target: it is empty"),
        (MODEL + '[common]\nweights = ""', "[common] weights: it is empty"),
        ('[matrix]\nmodel = ["resnt18"]', "[matrix] model: unknown model 'resnt18'; did you mean resnet18"),
        (
            MODEL + 'target = ["onxruntime"]',
            "[matrix] target: unknown target 'onxruntime'; did you mean onnxruntime or onnxruntime-cuda?",
        ),
        (MODEL + 'batch = ["8:4"]', "[matrix] batch: '8:4': write MIN:OPT:MAX"),
        (MODEL + "batch = [4, 4]", "[matrix] batch: a value is in the list twice."),
        (
            MODEL + "[common]\ncalibration_size = 4",
            "[common]: unknown key 'calibration_size'; did you mean calibration-",
        ),
        (MODEL + '[common]\nsamples = "many"', "[common] samples: 'many' is not a valid integer range."),
        (MODEL + "[common]\nsamples = true", "[common] samples: write a value, and not true or false."),
        (MODEL + "[common]\nrefittable = 1", "[common] refittable: write true or false."),
        (MODEL + "[common]\ndata = 2020-01-01", "[common] data: 2020-01-01 is not a string, a number or a"),
        (MODEL + '[common]\nhead = "logit"', "[common] head: 'logit' is not one of"),
        (MODEL + '[common]\noutput = "x"', "[common]: unknown key 'output'"),
        (MODEL + "[model.resnet50]\nsamples = 4", "[model.resnet50]: unknown model 'resnet50'; did you mean resnet18?"),
        (MODEL + "[precision.fp8]\nsamples = 4", "[precision.fp8]: unknown precision 'fp8'"),
        (MODEL + "seed = [1]\n[common]\nseed = 2", "[common] seed: [matrix] has it too; set it in one place."),
        (
            MODEL + 'target = ["orin"]\n[target.orin]\nbackend = "tensorrt"\nneeds = 87',
            '[target.orin] needs: write a Ray resource, "sm87"',
        ),
        (
            MODEL + 'target = ["tensorrt"]\n[target.tensorrt]\nneeds = { sm87 = -1 }',
            "[target.tensorrt] needs: write a Ray resource",
        ),
        (MODEL + '[target.orin]\nbackend = "tensorrt"', "[target.orin]: no cell has this target."),
        (MODEL + 'target = ["orin"]\n[target.orin]\nneeds = "sm87"', "[target.orin]: name its backend: backend"),
        (
            MODEL + 'target = ["orin"]\n[target.orin]\nbackend = "tensort"',
            "[target.orin] backend: unknown backend 'tensort'; did you mean",
        ),
        (MODEL + 'precision = ["int8"]', "[common]: int8 needs calibration data: give calibration"),
        (MODEL + '[[exclude]]\nmodel = "vgg16"', "[[exclude]] number 1: it excludes no cell."),
        (MODEL + '[[exclude]]\nhead = "logits"', "[[exclude]] number 1: unknown key 'head'"),
        (MODEL + '[[exclude]]\nmodel = "resnet18"', "[[exclude]]: every cell is excluded."),
        (MODEL + '[exclude]\nmodel = "resnet18"', "exclude: write it as [[exclude]]"),
        (MODEL + "[fleet]\ncpu = 2", "[fleet]: unknown key 'cpu'; did you mean cpus?"),
        (MODEL + "[fleet]\ncpus = 0", "[fleet]: attempts is at least 1, wait-minutes at least 0, and cpus above 0"),
        (MODEL + '[fleet]\nattempts = "3"', "[fleet] attempts: expected int, got str"),
        ('[matrix]\nmodel = ["a/b.onnx", "a-b.onnx"]', "[matrix]: two different cells would both be called a-b.onnx"),
        ("[matrix]\nmodel = [18]", "[matrix] model: 18 is not the name of a network."),
        ("matrix = 1", "matrix: write it as a table: [matrix]."),
    ],
)
def test_invalid_entries_are_refused_with_the_key_and_the_remedy(refusal, text, why):
    assert refusal(text).startswith(why)


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    (tmp_path / "sweep.toml").write_text("[matrix")
    with pytest.raises(InputError, match="is not TOML"):
        sweep_file.read_sweep(tmp_path / "sweep.toml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no"):
        sweep_file.read_sweep(tmp_path / "sweep.toml")
