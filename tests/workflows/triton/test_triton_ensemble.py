"""The preprocessing graph gives what `deploykit.core.calibration.preprocess` gives, bit for bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.calibration import preprocess
from deploykit.core.values import Preprocessing, TensorSpec, layout_of
from deploykit.workflows.triton import ensemble
from deploykit.workflows.triton.model_config import ModelConfig
from deploykit.workflows.triton.ports import create_tensor_configs

IMAGENET = Preprocessing(resize=8, height=6, width=8)
CAFFE = Preprocessing(
    resize=8, height=6, width=8, scale=1, mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channels="bgr"
)
TENSORFLOW = Preprocessing(
    resize=8, height=6, width=8, scale=1 / 127.5, mean=(1, 1, 1), std=(1, 1, 1), layout="NHWC", channels="rgb"
)
CAFFE_LAST = Preprocessing(resize=8, height=6, width=8, scale=1, mean=(1, 2, 3), channels="bgr", layout="NHWC")


GREY = Preprocessing(resize=8, height=6, width=8, mean=(0.1307,), std=(0.3081,), channels="grey")
GREY_LAST = Preprocessing(resize=8, height=6, width=8, mean=(0.5,), std=(0.5,), channels="grey", layout="NHWC")


def input_spec(spec, dtype="float32", first="batch"):
    shape = (first, *spec.input_shape)
    return TensorSpec("data", dtype, shape, layout_of(shape, dtype))


def run(graph, pixels):
    [answer] = onnxruntime.InferenceSession(graph).run(None, {"pixels": pixels})
    return answer


def images(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "spec", [IMAGENET, CAFFE, TENSORFLOW, CAFFE_LAST, GREY, GREY_LAST], ids=lambda spec: spec.channels + spec.layout
)
def test_preprocessing_is_bit_identical_to_the_reference(spec):
    pixels = np.stack([preprocess.crop_image(image, spec) for image in images(3)])
    expected = preprocess.preprocess_batch(images(3), spec)
    assert (
        run(ensemble.build_preprocessing_graph(input_spec(spec), spec, "pixels"), pixels).tobytes()
        == expected.tobytes()
    )


@given(
    scale=st.floats(1e-4, 2),
    mean=st.tuples(*[st.floats(-200, 200)] * 3),
    std=st.tuples(*[st.floats(1e-3, 300)] * 3),
    channels=st.sampled_from(["rgb", "bgr"]),
)
def test_preprocessing_equals_the_reference_for_any_mean_and_std(scale, mean, std, channels):
    spec = Preprocessing(16, 16, 16, scale, mean, std, channels)
    every_value = np.arange(256, dtype=np.uint8).reshape(16, 16, 1) ^ np.array([0, 85, 170], dtype=np.uint8)
    answer = run(ensemble.build_preprocessing_graph(input_spec(spec), spec, "pixels"), every_value[None])
    assert answer.tobytes() == preprocess.preprocess_image(every_value, spec).tobytes()


def test_half_precision_inputs_get_the_reference_rounded_once():
    pixels = np.stack([preprocess.crop_image(image, IMAGENET) for image in images(2)])
    answer = run(ensemble.build_preprocessing_graph(input_spec(IMAGENET, "float16"), IMAGENET, "pixels"), pixels)
    assert answer.dtype == np.float16
    assert np.array_equal(answer, preprocess.preprocess_batch(images(2), IMAGENET).astype(np.float16))


def test_a_static_batch_stays_static():
    model = onnx.load_from_string(ensemble.build_preprocessing_graph(input_spec(IMAGENET, first=4), IMAGENET, "pixels"))
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [4, 6, 8, 3]


def test_the_ensemble_input_has_a_name_of_its_own():
    named = (
        TensorSpec("data", "float32", ("batch", 3, 6, 8), "NCHW"),
        TensorSpec("pixels", "int64", ("batch", 1), "NC"),
    )
    network = ModelConfig(
        "net", "onnxruntime_onnx", create_tensor_configs(named, True), create_tensor_configs(named[:1], True), 4
    )
    front, whole = ensemble.build_ensemble_models(network, named[0], IMAGENET)
    assert front.inputs[0].name == "pixels_"
    assert [port.name for port in whole.inputs] == ["pixels_", "pixels"]


@pytest.mark.parametrize("name", ["input/table", "table", "node 0", 'a"b\\c', "höhe/x:0"])
def test_the_network_input_may_have_any_name(name):
    spec = TensorSpec(name, "float32", ("batch", 3, 6, 8), "NCHW")
    pixels = np.zeros((1, 6, 8, 3), dtype=np.uint8)
    assert run(ensemble.build_preprocessing_graph(spec, IMAGENET, "pixels"), pixels).shape == (1, 3, 6, 8)


@pytest.mark.parametrize(
    ("dtype", "sizes"), [("uint8", (6, 8, 3)), ("float32", (3, 8, 6)), ("int64", (3, 6, 8)), ("float32", (1, 6, 8))]
)
def test_non_image_inputs_get_no_preprocessing_graph(dtype, sizes):
    shape = ("batch", *sizes)
    assert not ensemble.is_image_input(TensorSpec("data", dtype, shape, layout_of(shape, dtype)), IMAGENET)
