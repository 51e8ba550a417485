"""A bundle with every record: the tests of all report formats use it."""

import base64
import io

import msgspec
from PIL import Image

from deploykit.core.values import (
    Accuracy,
    Bench,
    Budget,
    BudgetStep,
    CalibrationReceipt,
    ClassChange,
    Convergence,
    DeviceConditions,
    Disjointness,
    Fp32Node,
    GpuTimes,
    Latency,
    LayerArithmetic,
    LayerError,
    LayerErrors,
    LoadGenSummary,
    Measurement,
    PrecisionReceipt,
    Records,
    SampleDifferences,
    SampleRecord,
    SecondaryEngine,
    StageParity,
    Stages,
    StartupTimes,
    WorstSample,
)
from deploykit.report.bundle_document import describe_bundle


def picture():
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(content, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def measured(batch=1, scale=1.0):
    durations = tuple(int(scale * 1e6 * (2 + (index * 37 % 100) / 100)) for index in range(200))
    latency = Latency(batch, 200, 40, 2.5 * scale, 2.9 * scale, 2.95 * scale, 2.99 * scale, 2.5 * scale, 0.3 * scale,
                      batch * 400 / scale, True)  # fmt: skip
    return Measurement(latency, 2.99 * scale, durations)


def bench(file="model.onnx", library="onnxruntime 1.31.1", runtime="python", several=True, **more):
    sizes = ((1, 1.0), (2, 1.8), (4, 3.5), (8, 7.0)) if several else ((1, 1.0),)
    return Bench(
        "nin_cifar10", "int8", runtime, library, file, tuple(measured(*size) for size in sizes),
        4 if several else None, StartupTimes(3.0, 40.0, 5.0), 2**28, **more,
    )  # fmt: skip


def stages(manifest, failing=False):
    good = manifest.parity.outputs
    bad = tuple(msgspec.structs.replace(output, snr_db=4.0) for output in good)
    outputs, bound = bad if failing else good, manifest.parity.tolerance
    failures = ("output 'logits': the signal-to-noise ratio is 4.0 dB",) if failing else ()
    return Stages(
        (
            StageParity("preprocessing", "Pillow", good, good, None),
            StageParity("Q/DQ", "the graph with Q/DQ pairs", outputs, outputs, bound, failures),
            StageParity("C++", "the C++ library", (), (), None, not_run_reason="no compiler was found"),
        ),
        manifest.parity.data,
        ("one image was left out",),
    )  # fmt: skip


def records(manifest):
    data = manifest.parity.data
    layers = tuple(
        LayerError(f"features.{place}/Conv", "Conv", f"features.{place}", f"t{place}", 40.0 - place, 1e-4 / (place + 1))
        for place in range(14)
    )
    return Records(
        measurement=measured(),
        stages=stages(manifest),
        layers=LayerErrors(layers, data, 120.0, ("a layer was fused away",)),
        samples=SampleDifferences(
            (ClassChange(3, "cat", 40, 38, 35, {"dog": 3}),),
            (WorstSample("cat-7.png", "cat", "cat", "dog", 0.31, picture()),
             WorstSample("cat-8.png", "cat", "cat", "cat", 0.11, "")),
            data,
        ),
        benches=(
            bench(conditions=(DeviceConditions("CPU", "sysfs", (2100.0, 2900.0), power_mode="performance"),)),
            bench("engines/tensorrt-11.4.0-sm89/engine.plan", "TensorRT 11.4.0", "cpp", several=False,
                  loadgen=LoadGenSummary("6.0.17", "Offline", False, "Samples per second", 812.0, 100, "INVALID"),
                  caveats=("the GPU's clock was not fixed",)),
        ),
    )  # fmt: skip


def whole(manifest, name="nin-int8"):
    """The manifest of a real FP32 bundle, dressed as one of INT8 within a budget, with a second engine; and records."""
    data, gpu = manifest.parity.data, GpuTimes(True, 0.1, 0.5, 0.05, 0.02)
    calibration = CalibrationReceipt(
        data, (SampleRecord("a", "0" * 64),), "mse", {"input": 2.5},
        (Convergence(32, 0.05, 0.2, "input"), Convergence(64, 0.02, 0.08, "input")), Disjointness("a", "b", 4, 0), 81.0,
    )  # fmt: skip
    receipt = PrecisionReceipt(
        "openvino", "2026.4.1", "execution graph", {"int8": 0.9, "fp32": 0.1},
        (LayerArithmetic("features.0/Conv", "Conv", 900, "int8", "int8"),
         LayerArithmetic("features.1/Conv", "Conv", 20, "int8", "fp32")),
    )  # fmt: skip
    secondary = SecondaryEngine(
        msgspec.structs.replace(manifest.engine, backend="openvino", version="2026.4.1"), None, manifest.parity,
        receipt, manifest.latency,
    )  # fmt: skip
    known = records(manifest)
    on_gpu = msgspec.structs.replace(known.benches[1].measurements[0], gpu=(gpu,))
    benches = (known.benches[0], msgspec.structs.replace(known.benches[1], measurements=(on_gpu,)))
    dressed = msgspec.structs.replace(
        manifest,
        precision="int8",
        calibration=calibration,
        budget=Budget("top-1 drop", 0.5, 2.0, (BudgetStep("features.1/Conv", 0.01, 2.0, 0.2, 0.9),), True),
        receipt=receipt,
        extra_engines=(secondary,),
        graph=msgspec.structs.replace(manifest.graph, fp32_nodes=(Fp32Node("pool", "MaxPool", "7e4 leaves FP16"),)),
        parity=msgspec.structs.replace(manifest.parity, accuracy=Accuracy(0.95, 0.94, 100)),
    )
    return describe_bundle(name, dressed, msgspec.structs.replace(known, benches=benches))
