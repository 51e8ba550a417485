"""Every operator and pattern in INT8: an engine computes its form of the graph as the form is written.

The form is computed node by node by ONNX Runtime without optimizations. Kernels add in another order and multiply by
1 / scale where ONNX divides by it, so a value halfway between two codes may get the other one. In these networks that
happens to at most a few codes in ten thousand, each by one step where values are some thirty steps: 60 dB and more, as
10·log₁₀(30² / 10⁻³) says. The mildest fault met so far, a pair whose rounding a kernel leaves out, gives 44 dB; the
others 0 to 37 dB.
"""

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.onnxruntime import OnnxRuntime, open_graph, open_unoptimized
from deploykit.backends.openvino import OpenVino
from deploykit.evaluate.parity.metrics import snr_db
from deploykit.quantize.calibrate import add_graph_outputs
from deploykit.quantize.placement import place_qdq_pairs
from deploykit.quantize.qdq import insert_qdq_pairs

LEAST_DB = 50.0

# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────
# Nodes from x to y in ONNX's text format. A name says what a constant holds: w_32_16_3_3 random weights of that shape,
# b_32 random numbers around zero, n_32 negative ones, o_32 zeros, k_2_3 the integers 2 and 3, s_1_2 floats, c_15 the
# number 1.5. A letter after it tells equal shapes apart.

STEM = "first = Conv <pads=[1,1,1,1]> (x, w_32_16_3_3, b_32) a = Relu (first) "
"""A convolution and its activation: what follows reads `a`, or `first` for values of both signs."""

LAST = " y = Conv (m, w_24_32_1_1, b_24)"
"""A convolution that reads `m`."""

CONVOLUTIONS = {
    "1x1": "y = Conv (x, w_32_16_1_1, b_32)",
    "3x3": "y = Conv <pads=[1,1,1,1]> (x, w_32_16_3_3, b_32)",
    "strided": "y = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w_32_16_3_3, b_32)",
    "strided 1x1": "y = Conv <strides=[2,2]> (x, w_32_16_1_1, b_32)",
    "dilated": "y = Conv <pads=[2,2,2,2], dilations=[2,2]> (x, w_32_16_3_3, b_32)",
    "1x7": "y = Conv <pads=[0,3,0,3]> (x, w_32_16_1_7, b_32)",
    "asymmetric padding": "y = Conv <pads=[0,0,1,1], strides=[2,2]> (x, w_32_16_3_3, b_32)",
    "same padding": 'y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w_32_16_3_3, b_32)',
    "grouped": "y = Conv <pads=[1,1,1,1], group=4> (x, w_32_4_3_3, b_32)",
    "depthwise": "y = Conv <pads=[1,1,1,1], group=16> (x, w_16_1_3_3, b_16)",
    "depthwise, strided": "y = Conv <pads=[2,2,2,2], group=16, strides=[2,2]> (x, w_16_1_5_5, b_16)",
    "two per channel": "y = Conv <pads=[1,1,1,1], group=16> (x, w_32_1_3_3, b_32)",
    "odd channels": "c = Conv <pads=[1,1,1,1]> (x, w_7_16_3_3, b_7) r = Relu (c) y = Conv (r, w_13_7_1_1)",
    "one channel": "c = Conv (x, w_1_16_1_1, b_1) r = Relu (c) y = Conv <pads=[1,1,1,1]> (r, w_8_1_3_3, b_8)",
    "transposed": "y = ConvTranspose <strides=[2,2]> (x, w_16_32_2_2, b_32)",
    "transposed, relu": STEM + "t = ConvTranspose <strides=[2,2]> (a, w_32_32_4_4, b_32t) m = Relu (t)" + LAST,
    "shared weight": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3, b_32) m = Relu (c)"
    " d = Conv <pads=[1,1,1,1]> (m, w_32_32_3_3, b_32) y = Relu (d)",
    "two readers": STEM + "c = Conv (a, w_24_32_1_1) d = Conv <pads=[1,1,1,1]> (a, w_24_32_3_3) y = Add (c, d)",
}

JOINS = {
    "skip": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3, b_32c) s = Add (c, a) m = Relu (s)" + LAST,
    "skip first": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3, b_32c) s = Add (a, c) m = Relu (s)" + LAST,
    "skip, linear": STEM + "c = Conv (a, w_32_32_1_1, b_32c) m = Add (c, a)" + LAST,
    "projection": STEM + "c = Conv <pads=[1,1,1,1], strides=[2,2]> (a, w_32_32_3_3, b_32c)"
    " p = Conv <strides=[2,2]> (a, w_32_32_1_1, b_32p) s = Add (c, p) m = Relu (s)" + LAST,
    "strides in both paths": STEM + "c = Conv <strides=[2,2]> (a, w_16_32_1_1, b_16) r = Relu (c)"
    " d = Conv <pads=[1,1,1,1]> (r, w_32_16_3_3, b_32d) p = Conv <strides=[2,2]> (a, w_32_32_1_1, b_32p) s = Add (p, d)"
    " m = Relu (s)" + LAST,
    "pre-activation": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3) s = Add (c, first) m = Relu (s)"
    " d = Conv <pads=[1,1,1,1]> (m, w_32_32_3_3d) t = Add (d, s) e = Relu (t) y = Conv (e, w_24_32_1_1)",
    "inverted residual": STEM + "c = Conv (a, w_64_32_1_1, b_64) e = Clip (c, c_0, c_60)"
    " d = Conv <pads=[1,1,1,1], group=64> (e, w_64_1_3_3, b_64d) f = Clip (d, c_0, c_60)"
    " p = Conv (f, w_32_64_1_1, b_32p) m = Add (p, a)" + LAST,
    "activated branches": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3) d = Relu (c)"
    " e = Conv (a, w_32_32_1_1) f = Relu (e) m = Add (d, f)" + LAST,
    "mean of branches": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3) d = Relu (c)"
    " e = Conv (a, w_32_32_1_1) f = Relu (e) s = Add (d, f) m = Mul (s, c_5)" + LAST,
    "three branches": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3) d = Relu (c) e = Conv (a, w_32_32_1_1)"
    " f = Relu (e) g = Conv (a, w_32_32_1_1g) h = Relu (g) s = Add (d, f) m = Add (s, h)" + LAST,
    "darknet": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3) d = LeakyRelu (c) m = Add (a, d)" + LAST,
    "csp": STEM
    + "c = Conv <pads=[1,1,1,1]> (a, w_32_32_3_3, b_32c) s = Sigmoid (c) d = Mul (c, s) m = Add (a, d)"
    + LAST,
    "broadcast": STEM + "g = GlobalAveragePool (a) c = Conv (g, w_32_32_1_1, b_32c) m = Add (a, c)" + LAST,
    "gate": STEM
    + "g = GlobalAveragePool (a) c = Conv (g, w_8_32_1_1, b_8) r = Relu (c) d = Conv (r, w_32_8_1_1, b_32d)"
    " q = Sigmoid (d) m = Mul (q, a)" + LAST,
    "gate of maxima": STEM + "g = GlobalMaxPool (a) q = Sigmoid (g) m = Mul (a, q)" + LAST,
    "product": STEM + "c = Conv (a, w_32_32_1_1) d = Conv (a, w_32_32_1_1d) m = Mul (c, d)" + LAST,
    "difference": STEM + "c = Conv (a, w_32_32_1_1) m = Sub (a, c)" + LAST,
}

BRANCHES = {
    "two": ("r0, r1", 64, 1),
    "two, 3x3": ("r0, r1", 64, 3),
    "three": ("r0, r1, r2", 77, 1),
    "odd": ("r0, r2", 45, 3),
    "both signs": ("c0, r1", 64, 1),
    "with its input": ("a, r0", 64, 3),
    "with a pool": ("p, r0", 64, 3),
}
CONCATS = {
    name: STEM
    + " ".join(
        f"c{i} = Conv (a, w_{n}_32_1_1{'abc'[i]}, b_{n}{'abc'[i]}) r{i} = Relu (c{i})"
        for i, n in enumerate((32, 32, 13))
    )
    + f" p = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (a) m = Concat <axis=1> ({branches})"
    + f' y = Conv <auto_pad="SAME_UPPER"> (m, w_24_{channels}_{kernel}_{kernel})'
    for name, (branches, channels, kernel) in BRANCHES.items()
} | {
    "dense": STEM + "c = Conv <pads=[1,1,1,1]> (a, w_16_32_3_3) k = Concat <axis=1> (first, c) l = Mul (k, b_1_48_1_1)"
    " n = Add (l, b_1_48_1_1n) r = Relu (n) d = Conv (r, w_16_48_1_1) o = Concat <axis=1> (first, c, d)"
    " q = Relu (o) y = Conv (q, w_24_64_1_1)",
    "dense block": STEM + "n = BatchNormalization <epsilon=1.0> (a, b_32g, b_32h, b_32m, o_32) p = Relu (n)"
    " c = Conv <pads=[1,1,1,1]> (p, w_16_32_3_3) k = Concat <axis=1> (a, c)"
    " l = BatchNormalization <epsilon=1.0> (k, b_48g, b_48h, b_48m, o_48) r = Relu (l) d = Conv (r, w_16_48_1_1)"
    " e = Concat <axis=1> (a, c, d) q = BatchNormalization <epsilon=1.0> (e, b_64g, b_64h, b_64m, o_64) t = Relu (q)"
    " y = Conv (t, w_24_64_1_1)",
    "upsampled": STEM + "p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (a) c = Conv (p, w_16_32_1_1) r = Relu (c)"
    ' u = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (r, , s_1_1_2_2)'
    " m = Concat <axis=1> (u, a) y = Conv <pads=[1,1,1,1]> (m, w_24_48_3_3)",
    "parts": STEM + "p, q = Split <axis=1> (first, k_16_16) c = Conv <pads=[1,1,1,1]> (q, w_16_16_3_3) s = Sigmoid (c)"
    " t = Mul (c, s) z = Add (q, t) m = Concat <axis=1> (p, q, z) y = Conv (m, w_24_48_1_1)",
    "before a transposed convolution": STEM + "c = Conv (a, w_16_32_1_1) r = Relu (c) m = Concat <axis=1> (r, a)"
    " y = ConvTranspose <strides=[2,2]> (m, w_48_24_2_2)",
}

BETWEEN = {
    **{
        name: f"m = {name} (first)"
        for name in (
            "Identity",
            "Relu",
            "LeakyRelu",
            "Sigmoid",
            "Tanh",
            "HardSwish",
            "HardSigmoid",
            "Elu",
            "Gelu",
            "Neg",
        )
    },
    "Clip": "m = Clip (first, c_0, c_60)",
    "Clip of both signs": "n = Neg (c_5) m = Clip (first, n, c_9)",
    "PRelu": "m = PRelu (first, b_32_1_1)",
    "SiLU": "q = Sigmoid (first) m = Mul (first, q)",
    "affine": "q = Mul (a, b_1_32_1_1) m = Add (q, b_1_32_1_1m)",
    "negative factors": "p = AveragePool <kernel_shape=[2,2], strides=[2,2]> (first) m = Mul (p, b_1_32_1_1)",
    "negative divisors": "m = Div (a, n_1_32_1_1)",
    "MaxPool": "m = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (a)",
    "MaxPool of both signs": "m = MaxPool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1> (first)",
    "AveragePool": "m = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (a)",
    "AveragePool with padding": "m = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (first)",
    "GlobalAveragePool": "m = GlobalAveragePool (first)",
    "GlobalMaxPool": "m = GlobalMaxPool (first)",
    "GlobalMaxPool, Relu": "g = GlobalMaxPool (first) m = Relu (g)",
    "GlobalMaxPool, Sigmoid": "g = GlobalMaxPool (first) m = Sigmoid (g)",
    "ReduceMax": "m = ReduceMax (first, k_2)",
    "ReduceMin": "m = ReduceMin (first, k_2)",
    "Resize, nearest": 'm = Resize <mode="nearest"> (a, , s_1_1_2_2)',
    "Resize, linear": 'm = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (a, , s_1_1_2_2)',
    "Pad": "m = Pad (a, k_0_0_0_0_0_0_1_1, c_0)",
    "Slice": "m = Slice (a, k_1_1, k_9_9, k_2_3)",
    "channel shuffle": "t = Reshape (a, k_0_2_16_10_10) u = Transpose <perm=[0,2,1,3,4]> (t)"
    " m = Reshape (u, k_0_32_10_10)",
    "Transpose": "t = Transpose <perm=[0,2,3,1]> (a) q = Mul (t, b_32m) m = Transpose <perm=[0,3,1,2]> (q)",
    "Softmax": "m = Softmax <axis=1> (a)",
}
BETWEEN = {name: STEM + nodes + LAST for name, nodes in BETWEEN.items()}

SEVERAL_READERS = {
    name: STEM + f"c = {convolution} {read} q = Sigmoid (c) r = ReduceMean (q, k_1) y = Add (d, r)"
    for name, convolution, read in (
        ("gate", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3)", "d = Conv (c, w_24_32_1_1)"),
        ("a bias of zeros", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3, o_32)", "d = Conv (c, w_24_32_1_1)"),
        ("relu", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3)", "e = Relu (c) d = Conv (e, w_24_32_1_1)"),
        ("depthwise", "Conv <pads=[1,1,1,1], group=32> (a, w_32_1_3_3)", "e = Relu (c) d = Conv (e, w_24_32_1_1)"),
        ("transposed", "ConvTranspose <strides=[2,2]> (a, w_32_32_2_2)", "e = Relu (c) d = Conv (e, w_24_32_1_1)"),
        ("floating point", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3)", "d = GlobalAveragePool (c)"),
        ("scaled", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3)", "e = Mul (c, c_5) d = Conv (e, w_24_32_1_1)"),
        ("factors", "Conv <pads=[1,1,1,1]> (a, w_32_32_3_3)", "e = Mul (c, b_1_32_1_1) d = Conv (e, w_24_32_1_1)"),
    )
}

PRODUCTS = {
    "Gemm": "f = Flatten (x) y = Gemm <transB=1> (f, w_10_1600, b_10)",
    "Gemm, not transposed": "f = Flatten (x) c = Gemm (f, w_1600_37, b_37) r = Relu (c) y = Gemm (r, w_37_10)",
    "Gemm of two readers": "f = Flatten (x) c = Gemm (f, w_1600_32) d = Gemm (c, w_32_10) s = Sigmoid (c) "
    "r = ReduceMean (s, k_1) y = Add (d, r)",
    "pooled Gemm": STEM + "g = ReduceMean <keepdims=0> (a, k_2_3) y = Gemm <transB=1> (g, w_10_32, b_10)",
    "maxima's Gemm": STEM + "g = ReduceMax <keepdims=0> (a, k_2_3) y = Gemm <transB=1> (g, w_10_32, b_10)",
    "MatMul": "r = Reshape (x, k_0_16_100) c = MatMul (r, w_100_64) d = Add (c, b_64) g = Gelu (d)"
    " y = MatMul (g, w_64_48)",
    "batched MatMul": "c = MatMul (x, w_10_40) y = Add (c, b_40)",
    "scaled MatMul": "r = Reshape (x, k_0_16_100) c = MatMul (r, w_100_64) d = Mul (c, b_64) y = MatMul (d, w_64_48)",
    "attention": "r = Reshape (x, k_0_16_100)"
    " q = MatMul (r, w_100_64q) k = MatMul (r, w_100_64k) v = MatMul (r, w_100_64v)"
    " t = Transpose <perm=[0,2,1]> (k) s = MatMul (q, t) p = Softmax <axis=2> (s) o = MatMul (p, v)"
    " y = MatMul (o, w_64_64)",
}

NETWORKS = {
    f"{kind}: {name}": nodes
    for kind, networks in {
        "Conv": CONVOLUTIONS,
        "join": JOINS,
        "Concat": CONCATS,
        "between": BETWEEN,
        "several readers": SEVERAL_READERS,
        "product": PRODUCTS,
    }.items()
    for name, nodes in networks.items()
}

INPUT = (16, 10, 10)


def parse_network(nodes):
    """The FP32 graph of a network's nodes, with its constants drawn from a seed."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"network (float[N,{','.join(map(str, INPUT))}] x) => (float[A] y) {{ {nodes} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")  # inferred below
    for name in dict.fromkeys(re.findall(r"\b[wbnoksc](?:_\d+)+[a-z]?\b", nodes)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(draw_constant(name), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def draw_constant(name):
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    random = np.random.default_rng([ord(letter) for letter in name])
    if name[0] in "wbn":
        width = np.prod(numbers[1:]) if len(numbers) > 2 else numbers[0]
        values = random.standard_normal(numbers) / (np.sqrt(width) if name[0] == "w" else 4)
        return (-0.1 - np.abs(values) if name[0] == "n" else values).astype(np.float32)
    if name[0] == "c":
        return np.array(numbers[0] / 10, np.float32)
    return (
        np.zeros(numbers, np.float32)
        if name[0] == "o"
        else np.array(numbers, np.int64 if name[0] == "k" else np.float32)
    )


X = np.random.default_rng(1).standard_normal((4, *INPUT)).astype(np.float32)


@pytest.fixture
def quantized(tmp_path):
    """Writes a network's Q/DQ graph, with ranges from the samples that the tests compute."""

    def write(nodes):
        model = parse_network(nodes)
        placement = place_qdq_pairs(model)
        ir.save(model, source := tmp_path / "fp32.onnx")
        tensors = {edge.tensor for edge in placement.edges}
        add_graph_outputs(source, exposed := tmp_path / "exposed.onnx", tensors)
        values = {"x": X} | open_graph(exposed).run({"x": X})
        insert_qdq_pairs(model, placement, {name: float(np.abs(values[name]).max()) for name in tensors}, False)
        ir.save(model, path := tmp_path / "model.onnx")
        return path

    return write


@pytest.mark.parametrize("backend", [OpenVino(), OnnxRuntime()], ids=lambda backend: backend.name)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_engine_computes_its_form_as_written(quantized, tmp_path, network, backend):
    engine = backend.compile(quantized(NETWORKS[network]), tmp_path)
    runner, form = backend.load(engine, tmp_path), open_unoptimized(tmp_path / engine.file.path)
    for batch in (1, 4):
        expected = form.run({"x": X[:batch]})["y"]
        assert np.ptp(expected) > 0
        snr = snr_db(expected, runner.run({"x": X[:batch]})["y"])
        assert snr is None or snr > LEAST_DB
