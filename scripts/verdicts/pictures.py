"""The pictures that networks are calibrated and evaluated on: crops of photographs, and drawn text.

A photograph is used for one purpose only, so that calibration and evaluation never share a pixel. Pictures have exactly
the size of the network's input: no side resizes them, and the truth does not depend on how deploykit resizes.
Everything is drawn from fixed seeds and is the same on every machine with the same Pillow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFilter, ImageFont

CALIBRATION_PHOTOGRAPHS: Final = (
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/page.png",
    "sklearn/datasets/images/china.jpg",
)

EVALUATION_PHOTOGRAPHS: Final = (
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/clock_motion.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
)

SMALLEST_CROP: Final = 0.3
"""Side of the smallest crop, as a share of the photograph's shorter side."""

FONTS: Final = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",
)
FONT_FOLDER: Final = "matplotlib/mpl-data/fonts/ttf"

FREQUENT: Final = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were all her she there would their we him been has when who will no more if out so up said "
    "what its about than into them can only other time new some could these two may first then do any like my now "
    "over such our man me even most made after also did many off before must well back through years much where "
    "your way down should because long each just state people those too mr how little good world make very year "
    "still see own work men day get here life between both being under three never know same last another while "
    "us might great go come"
)
WORDS: Final = FREQUENT.split()
"""Frequent English words."""


def crop_photographs(paths: Sequence[Path], size: tuple[int, int], count: int, seed: int) -> Iterator[Image.Image]:
    """`count` random crops of height×width, in turn from each photograph; half of them mirrored."""
    source = random.Random(seed)
    photographs = [Image.open(path).convert("RGB") for path in paths]
    height, width = size
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        share = source.uniform(SMALLEST_CROP, 1)
        scale = min(photograph.width / width, photograph.height / height) * share
        crop = (width * scale, height * scale)
        left, top = (source.uniform(0, extent - side) for extent, side in zip(photograph.size, crop, strict=True))
        picture = photograph.resize(
            (width, height), Image.Resampling.BILINEAR, (left, top, left + crop[0], top + crop[1])
        )
        mirrored = source.random() < 0.5
        yield picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


def draw_lines(
    fonts: Path, size: tuple[int, int], count: int, seed: int, turned: bool = False
) -> Iterator[Image.Image]:
    """Lines of words, each filling its picture; with `turned` every second one upside down."""
    source = random.Random(seed)
    for index in range(count):
        picture = draw_line(fonts, size, source)
        yield picture.rotate(180) if turned and index % 2 else picture


def draw_line(fonts: Path, size: tuple[int, int], source: random.Random) -> Image.Image:
    """One line: dark words on a light ground or the other way round, slightly blurred."""
    height, width = size
    font = ImageFont.truetype(fonts / source.choice(FONTS), source.randint(height * 11 // 20, height * 13 // 20))
    text = fill_line(font, width - 8, source)
    ground, ink = choose_colors(source)
    picture = Image.new("RGB", (width, height), ground)
    place = (source.randint(2, 6), height // 2 + source.randint(-2, 2))
    ImageDraw.Draw(picture).text(place, text, ink, font, anchor="lm")
    return picture.filter(ImageFilter.GaussianBlur(source.uniform(0, 0.8)))


def fill_line(font: ImageFont.FreeTypeFont, width: float, source: random.Random) -> str:
    """Random words and numbers, as many as fit; at least one character."""
    text = choose_word(source)
    while font.getlength(longer := f"{text} {choose_word(source)}") <= width:
        text = longer
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-1]
    return text


def choose_word(source: random.Random) -> str:
    """A word in lower, title or upper case, or a number."""
    if source.random() < 0.15:
        return str(source.randint(0, 99_999))
    word = source.choice(WORDS)
    return source.choice((word, word, word.title(), word.upper()))


def choose_colors(source: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ground and ink, far apart in brightness."""
    light = tuple(source.randint(190, 255) for _ in range(3))
    dark = tuple(source.randint(0, 80) for _ in range(3))
    return (light, dark) if source.random() < 0.8 else (dark, light)


def draw_pages(
    fonts: Path, photographs: Sequence[Path], size: tuple[int, int], count: int, seed: int
) -> Iterator[Image.Image]:
    """Pages of text: paragraphs on a plain ground, and every third one a photograph with captions on it."""
    source = random.Random(seed)
    for index in range(count):
        if index % 3 == 2:
            path = photographs[index // 3 % len(photographs)]
            (ground,) = crop_photographs([path], size, 1, source.randrange(2**31))
            yield draw_captions(fonts, ground, source)
        else:
            yield draw_page(fonts, size, source)


def draw_page(fonts: Path, size: tuple[int, int], source: random.Random) -> Image.Image:
    height, width = size
    ground, ink = choose_colors(source)
    picture = Image.new("RGB", (width, height), ground)
    drawing = ImageDraw.Draw(picture)
    top = source.randint(10, 60)
    while top < height - 40:
        points = source.randint(14, 40)
        font = ImageFont.truetype(fonts / source.choice(FONTS), points)
        left = source.randint(10, 60)
        for _ in range(source.randint(1, 4)):
            if top < height - points:
                drawing.text((left, top), fill_line(font, width - left - source.randint(20, 200), source), ink, font)
            top += int(points * 1.5)
        top += source.randint(10, 50)
    return picture.filter(ImageFilter.GaussianBlur(source.uniform(0, 0.8)))


def draw_captions(fonts: Path, picture: Image.Image, source: random.Random) -> Image.Image:
    drawing = ImageDraw.Draw(picture)
    for _ in range(source.randint(2, 6)):
        font = ImageFont.truetype(fonts / source.choice(FONTS), source.randint(18, 48))
        text = " ".join(choose_word(source) for _ in range(source.randint(1, 3)))
        ground, ink = choose_colors(source)
        place = (source.randint(5, picture.width // 2), source.randint(5, picture.height - 60))
        drawing.text(place, text, ink, font, stroke_width=2, stroke_fill=ground)
    return picture


def save_pictures(pictures: Iterator[Image.Image], folder: Path) -> Path:
    """Write them as numbered PNG files into a new folder; an existing one is kept as it is."""
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures):
            picture.save(unfinished / f"{index:04}.png")
        unfinished.rename(folder)
    return folder
