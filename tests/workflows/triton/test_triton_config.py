"""config.pbtxt parses as Triton's protobuf message and agrees with the model, for any names and types."""

import string

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as schema

from deploykit.core.values import BatchRange, TensorSpec
from deploykit.workflows.triton.config import TYPES, format_config, read_interface
from deploykit.workflows.triton.model_config import (
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    TensorConfig,
    WarmupInput,
    WarmupRequest,
    format_interface,
    select_preferred_sizes,
)
from deploykit.workflows.triton.ports import create_tensor_configs, is_batched

IMAGE = TensorConfig("input", "float32", (3, 224, 224), "NCHW")
SCORES = TensorConfig("logits", "float32", (1000,), labels="labels.txt")


def parse_config(model):
    return text_format.Parse(format_config(model), schema.ModelConfig())


def network(**fields):
    return ModelConfig(**{"name": "net", "platform": "onnxruntime_onnx", "inputs": (IMAGE,), "outputs": (SCORES,),
                    "max_batch": 32, **fields})  # fmt: skip


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
dimensions = st.lists(st.integers(-1, 4096).filter(bool), max_size=5).map(tuple)
tensors = st.builds(TensorConfig, names, st.sampled_from(sorted(TYPES)), dimensions)


@given(inputs=st.lists(tensors, min_size=1, max_size=4), outputs=st.lists(tensors, min_size=1, max_size=4))
def test_every_tensor_is_parsed_with_its_name_type_and_sizes(inputs, outputs):
    config = parse_config(network(inputs=tuple(inputs), outputs=tuple(outputs)))
    for given_ports, read in ((inputs, config.input), (outputs, config.output)):
        for port, tensor in zip(given_ports, read, strict=True):
            assert tensor.name == port.name
            assert schema.DataType.Name(tensor.data_type) == TYPES[port.dtype]
            assert tuple(tensor.dims) == (port.dims or (1,))
            assert tensor.HasField("reshape") == (not port.dims)


@given(names)
def test_the_interface_is_one_line_for_any_tensor_name(name):
    model = network(inputs=(TensorConfig(name, "float32", (3,)),))
    assert read_interface(format_config(model)) == format_interface(model)


def test_a_foreign_config_has_no_interface():
    assert read_interface('name: "net"\nplatform: "onnxruntime_onnx"\n') is None


def test_images_state_their_layout_if_the_batch_is_not_one_of_their_axes():
    assert parse_config(network()).input[0].format == schema.ModelInput.FORMAT_NCHW
    whole = network(inputs=(TensorConfig("input", "float32", (4, 3, 224, 224), "NCHW"),), max_batch=0)
    assert parse_config(whole).input[0].format == schema.ModelInput.FORMAT_NONE


def test_dynamic_batching_prefers_the_profile_s_sizes():
    config = parse_config(network(preferred=(8, 32), queue_delay_us=500))
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500


@pytest.mark.parametrize("most", [0, 1])
def test_a_static_batch_has_no_dynamic_batching(most):
    assert not parse_config(network(max_batch=most)).HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("batch", "sizes"), [((1, 8, 32), (8, 32)), ((1, 1, 4), (4,)), ((1, 32, 32), (32,)), ((2, 2, 3), (2, 3))]
)
def test_a_batch_of_one_is_never_preferred(batch, sizes):
    assert select_preferred_sizes(BatchRange(*batch)) == sizes


@pytest.mark.parametrize(("device", "kind"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")])
def test_instances_run_on_the_requested_device(device, kind):
    [group] = parse_config(network(instances=InstanceGroup(device, 3))).instance_group
    assert (group.count, schema.ModelInstanceGroup.Kind.Name(group.kind)) == (3, kind)


def test_a_plan_for_an_accelerator_names_it():
    [group] = parse_config(network(instances=InstanceGroup("gpu", dla_core=1))).instance_group
    [device] = group.secondary_devices
    assert (device.kind, device.device_id) == (schema.ModelInstanceGroup.SecondaryDevice.KIND_NVDLA, 1)


def test_plans_are_chosen_by_the_gpu():
    config = parse_config(network(platform="tensorrt_plan", plans={"8.6": "a.plan", "8.9": "b.plan"}))
    assert dict(config.cc_model_filenames) == {"8.6": "a.plan", "8.9": "b.plan"}


def test_warm_up_reads_files_or_zeros():
    inputs = (WarmupInput('a"b', "int64", (4,), "input-0.bin"), WarmupInput("c", "uint8", (2, 2), None))
    [warmup] = parse_config(network(warmups=(WarmupRequest("batch-8", 8, inputs),))).model_warmup
    assert (warmup.name, warmup.batch_size) == ("batch-8", 8)
    assert warmup.inputs['a"b'].input_data_file == "input-0.bin"
    assert list(warmup.inputs['a"b'].dims) == [4]
    assert warmup.inputs["c"].zero_data


def test_an_ensemble_maps_the_tensors_of_each_step():
    step = EnsembleStep("net", {"in/x": "pixels"}, {"out": "out"})
    config = parse_config(network(platform="ensemble", steps=(step,)))
    [read] = config.ensemble_scheduling.step
    assert (read.model_name, read.model_version) == ("net", -1)
    assert dict(read.input_map) == {"in/x": "pixels"}
    assert not config.HasField("dynamic_batching")


def test_labels_are_named_at_the_scores():
    assert parse_config(network()).output[0].label_filename == "labels.txt"


def spec(*shape, name="x"):
    return TensorSpec(name, "float32", shape, "ND")


@pytest.mark.parametrize(
    ("tensors", "together"),
    [
        ([("batch", 3), ("batch", 10)], True),
        ([("batch",), ("batch", 2, 3)], True),
        ([(4, 3), (4, 10)], False),
        ([("batch", 3), (10,)], False),
        ([("batch", 3), ("other", 10)], False),
        ([(), ()], False),
    ],
)
def test_requests_are_batched_only_along_one_dynamic_axis_shared_by_all_tensors(tensors, together):
    assert is_batched(tuple(spec(*shape) for shape in tensors)) is together


def test_labels_are_assigned_to_outputs_with_as_many_scores_per_sample():
    configs = create_tensor_configs(
        (spec("batch", 10), spec("batch", 9), spec("batch", 10, 2)), True, labels="labels.txt", classes=10
    )
    assert [port.labels for port in configs] == ["labels.txt", None, None]


@given(names)
def test_every_name_is_one_plain_ascii_line_of_the_file(name):
    lines = format_config(network(name=name)).splitlines()
    assert all(set(line) <= set(string.printable) for line in lines[2:])
