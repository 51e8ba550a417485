"""One bundle of a network, judged twice: by its own terms and by deploykit. And one fault, caught or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from verdicts import bundle_edit, commands, outputs, truth
from verdicts.faults import FAULTS, Fault
from verdicts.networks import NETWORKS, Network

PRECISIONS: Final = ("fp16", "int8")
TARGETS: Final = ("onnxruntime", "openvino")


class Workplace(NamedTuple):
    """Where everything lies."""

    packages: Path
    """`download.py`'s folder."""
    folder: Path
    """Pictures, bundles, deploykit's cache and rows."""

    @property
    def networks(self) -> Path:
        return self.packages / "networks"

    def draw_pictures(self, network: Network, purpose: str) -> Path:
        return network.draw_pictures(self.packages / "photographs", purpose, self.folder / "pictures")

    def prepare_data(self, network: Network, purpose: str) -> Path:
        return network.prepare_data(self.packages / "photographs", purpose, self.folder / "pictures")

    def run_deploykit(self, arguments: Sequence[str]) -> commands.Finished:
        return commands.run_deploykit(arguments, self.networks, self.folder / "cache")


class VerdictRow(msgspec.Struct, frozen=True, kw_only=True):
    """A network at a precision on a backend: the truth, and the verdict."""

    network: str
    precision: str
    target: str
    cost: str
    """In the terms of its task; empty where there is no engine."""
    usable: bool
    word: str
    reasons: tuple[str, ...]
    executed: str
    command: str

    @property
    def truth(self) -> str:
        """`usable`, `broken`, `not in INT8`; or a dash, where there is no engine."""
        if not self.cost:
            return "–"
        if not self.usable:
            return "broken"
        share = commands.read_int8_share(self.executed)
        return "not in INT8" if self.precision == "int8" and share < truth.MIN_INT8_SHARE else "usable"

    @property
    def error(self) -> str:
        """`refused`, `false alarm`, `miss` or nothing."""
        if self.word == "REFUSED":
            return "refused"
        if self.word == "FAILED":
            return "false alarm" if self.truth == "usable" else ""
        return "miss" if self.truth == "broken" else ""


def measure_verdict(place: Workplace, network: Network, precision: str, target: str) -> VerdictRow:
    """Export it as a user would, then run the engine's file without deploykit."""
    evaluation = place.prepare_data(network, "evaluation")
    bundle = place.folder / "bundles" / f"{network.name}-{precision}-{target}"
    arguments = [*network.list_arguments(place.networks), f"--{precision}", "--data", str(evaluation)]
    if precision == "int8":
        arguments += ["--calibration", str(place.prepare_data(network, "calibration"))]
        if network.calibration_count < DEFAULT_CALIBRATION_SIZE:
            arguments += ["--calibration-size", str(network.calibration_count)]
    arguments += ["--target", target]
    shutil.rmtree(bundle, ignore_errors=True)
    done = place.run_deploykit(["export", *arguments, "-o", str(bundle)])
    verdict = commands.read_verdict(done, bundle)
    measured = None
    if (bundle / "manifest.json").is_file():
        measured = measure_truth(place, network, bundle)
    return VerdictRow(
        network=network.name,
        precision=precision,
        target=target,
        cost="" if measured is None else measured.text,
        usable=measured is not None and measured.is_usable(precision),
        word=verdict.word,
        reasons=verdict.reasons,
        executed=verdict.executed,
        command=shorten_command(place, arguments),
    )


DEFAULT_CALIBRATION_SIZE: Final = 256
"""deploykit's --calibration-size."""


def measure_truth(place: Workplace, network: Network, bundle: Path) -> truth.Truth:
    pictures = place.draw_pictures(network, "evaluation")
    original = outputs.load_original_outputs(network, place.networks, pictures)
    candidate = outputs.run_pictures(outputs.open_engine(bundle), network.pixels, sorted(pictures.glob("*.png")))
    return network.compare(original, candidate)


def shorten_command(place: Workplace, arguments: Sequence[str]) -> str:
    """As the page prints it: file names without the folders of this machine."""
    folders = (f"{place.networks}/", f"{place.folder / 'pictures'}/")
    words = list(arguments)
    for folder in folders:
        words = [word.removeprefix(folder) for word in words]
    return " ".join(["deploykit", "export", *words])


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────

LITE0: Final = NETWORKS[0]

FAULT_TARGETS: Final = {"fp32": "onnxruntime", "fp16": "onnxruntime", "int8": "openvino"}


class Subject(NamedTuple):
    """A network that faults are put into, and the arguments of its exports."""

    name: str
    weights: str
    model: tuple[str, ...]
    other: tuple[str, ...]
    """A network with the same interface and other weights."""
    has_own_pictures: bool
    """Whether it is calibrated and evaluated on the first network's pictures, else on `photos`."""


RESNET: Final = ("resnet18", "--input-size", "64x64")

SUBJECTS: Final = (
    Subject("resnet18", "random weights", RESNET, (*RESNET, "--seed", "1"), has_own_pictures=False),
    Subject("efficientnet-lite0", "ImageNet weights", (), ("resnet18",), has_own_pictures=True),
)


class FaultRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fault in a bundle, and what deploykit's commands say of it."""

    subject: str
    fault: str
    precision: str
    expected: tuple[str, ...]
    """Stages that may be named; none for a bundle without a fault."""
    snr_db: float | None
    """Of the engine's outputs against those of the bundle without the fault; None: identical."""
    verify_code: int
    parity_code: int
    stage: str | None
    """The first failing stage of `parity --stages`."""
    new: bool
    """Whether a command fails, or names a stage, that does not for the bundle without the fault."""

    @property
    def caught(self) -> bool:
        return bool(self.expected) and self.new

    @property
    def error(self) -> str:
        """`false alarm`, `miss`, `wrong stage` or nothing."""
        if not self.expected:
            return "false alarm" if self.verify_code or self.parity_code else ""
        if not self.caught:
            return "miss"
        return "" if self.stage in self.expected else "wrong stage"


class Checks(NamedTuple):
    verify_code: int
    parity_code: int
    stage: str | None


def export_subject(place: Workplace, subject: Subject, precision: str, other: bool = False) -> Path:
    """Its bundle without a fault, exported where there is none. RuntimeError with deploykit's message."""
    suffix = "-other" if other else ""
    bundle = place.folder / "bundles" / f"fault-{subject.name}-{precision}{suffix}"
    if bundle.is_dir():
        return bundle
    words = subject.other if other else subject.model or LITE0.list_arguments(place.networks)
    arguments = [*words, f"--{precision}", "--target", FAULT_TARGETS[precision]]
    own_pictures = subject.has_own_pictures and not other
    if own_pictures:
        arguments += ["--data", str(place.draw_pictures(LITE0, "evaluation"))]
    if precision == "int8":
        calibration = str(place.draw_pictures(LITE0, "calibration")) if own_pictures else "photos"
        arguments += ["--calibration", calibration, "--calibration-size", "128"]
    done = place.run_deploykit(["export", *arguments, "-o", str(bundle)])
    if done.code > commands.CHECK_FAILED:
        raise RuntimeError(f"{subject.name} in {precision} was not exported: {done.err.strip()}")
    return bundle


def check_bundle(place: Workplace, bundle: Path) -> Checks:
    """`deploykit verify` and `deploykit parity --stages`."""
    verified = place.run_deploykit(["verify", str(bundle)])
    compared = place.run_deploykit(["parity", str(bundle), "--stages", "--json"])
    try:
        stage = commands.find_failing_stage(json.loads(compared.out))
    except ValueError:  # refused, with a message instead of a document
        stage = "refused"
    return Checks(verified.code, compared.code, stage)


def measure_faults(place: Workplace, subject: Subject, precision: str) -> list[FaultRow]:
    """The bundle without a fault, then every fault for its precision."""
    good = export_subject(place, subject, precision)
    baseline = check_bundle(place, good)
    control = FaultRow(
        subject=subject.name,
        fault="none",
        precision=precision,
        expected=(),
        snr_db=None,
        verify_code=baseline.verify_code,
        parity_code=baseline.parity_code,
        stage=baseline.stage,
        new=False,
    )
    chosen = [fault for fault in FAULTS if fault.precision == precision]
    return [control, *(measure_fault(place, subject, good, baseline, fault) for fault in chosen)]


def measure_fault(place: Workplace, subject: Subject, good: Path, baseline: Checks, fault: Fault) -> FaultRow:
    other = export_subject(place, subject, fault.precision, other=True) if "another" in fault.name else good
    damaged = bundle_edit.copy_bundle(good, place.folder / "bundles" / "damaged")
    fault.inject(damaged, other)
    checks = check_bundle(place, damaged)
    return FaultRow(
        subject=subject.name,
        fault=fault.name,
        precision=fault.precision,
        expected=fault.stages,
        snr_db=measure_damage(place, good, damaged),
        verify_code=checks.verify_code,
        parity_code=checks.parity_code,
        stage=checks.stage,
        new=is_new(baseline, checks),
    )


def is_new(baseline: Checks, checks: Checks) -> bool:
    """Where the bundle without the fault fails already, only another stage shows that the fault was seen."""
    failed = checks.verify_code > baseline.verify_code or checks.parity_code > baseline.parity_code
    return failed or (checks.stage is not None and checks.stage != baseline.stage)


def measure_damage(place: Workplace, good: Path, damaged: Path) -> float | None:
    """Signal over noise of what an application gets: pictures through the manifest's preprocessing and the engine."""
    pictures = sorted(place.draw_pictures(LITE0, "evaluation").glob("*.png"))[:16]
    before, after = (run_application(bundle, pictures) for bundle in (good, damaged))
    snr_db = truth.signal_to_noise_db(before, after)
    return None if snr_db == float("inf") else snr_db


def run_application(bundle: Path, pictures: Sequence[Path]) -> outputs.Outputs:
    """As a C++ application would, with what the manifest says."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return outputs.run_pictures(outputs.open_engine(bundle), outputs.read_pixels(manifest), pictures)
