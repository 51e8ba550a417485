"""Pixels as a viewer shows them, for every file format."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deploykit.core.calibration import UndecodableImage, decode_image, prefetch_results
from deploykit.core.errors import InputError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREYS = COLOURS[..., 0]


def save_image(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "ppm"])
def test_lossless_formats_give_the_pixels_back(tmp_path, suffix):
    assert np.array_equal(decode_image(save_image(tmp_path / f"x.{suffix}", Image.fromarray(COLOURS))), COLOURS)


def test_lossless_webp_round_trips(tmp_path):
    assert np.array_equal(
        decode_image(save_image(tmp_path / "x.webp", Image.fromarray(COLOURS), lossless=True)), COLOURS
    )


def test_jpeg_is_pillows(tmp_path):
    path = save_image(tmp_path / "x.jpg", Image.fromarray(COLOURS))
    assert np.array_equal(decode_image(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(save_image(tmp_path / "x.png", Image.fromarray(COLOURS), exif=exif))
    expected = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, -1),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }
    assert np.array_equal(shown, expected[orientation])


def test_grey_is_repeated_over_the_channels(tmp_path):
    shown = decode_image(save_image(tmp_path / "x.png", Image.fromarray(GREYS)))
    assert np.array_equal(shown, np.stack([GREYS] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_reduced_to_its_high_byte(tmp_path, suffix):
    deep = (GREYS.astype(np.uint16) << 8) + 77
    shown = decode_image(save_image(tmp_path / f"x.{suffix}", Image.fromarray(deep)))
    assert np.array_equal(shown, np.stack([GREYS] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_keep_their_high_8(tmp_path, suffix):
    deep = (GREYS.astype(np.uint16) << 4) + 7  # no sample above 4095
    shown = decode_image(save_image(tmp_path / f"x.{suffix}", Image.fromarray(deep)))
    assert np.array_equal(shown, np.stack([GREYS] * 3, axis=-1))


def test_one_sample_above_4095_makes_all_of_an_image_16_bit(tmp_path):
    deep = np.array([[0, 4095, 4096]], np.uint16)
    assert decode_image(save_image(tmp_path / "x.png", Image.fromarray(deep)))[0, :, 0].tolist() == [0, 15, 16]


def test_big_endian_16_bit_grey_is_reduced_to_its_high_byte(tmp_path):
    path = tmp_path / "x.ppm"  # netpbm's 16-bit samples are big-endian
    path.write_bytes(b"P5 5 6 65535\n" + ((GREYS.astype(np.uint16) << 8) + 77).astype(">u2").tobytes())
    assert np.array_equal(decode_image(path), np.stack([GREYS] * 3, axis=-1))


def test_16_bit_colour_is_reduced_to_its_high_byte(tmp_path):
    path = tmp_path / "x.png"
    rows = b"".join(b"\0" + row.tobytes() for row in ((COLOURS.astype(np.uint16) << 8) + 77).astype(">u2"))
    path.write_bytes(png(5, 6, depth=16, rows=rows))
    assert np.array_equal(decode_image(path), COLOURS)


def test_black_and_white_is_0_and_255(tmp_path):
    shown = decode_image(save_image(tmp_path / "x.png", Image.fromarray(GREYS > 127)))
    assert np.array_equal(shown[..., 0], np.where(GREYS > 127, 255, 0))


def test_a_palette_is_looked_up(tmp_path):
    few = (COLOURS > 127).astype(np.uint8) * 255
    shown = decode_image(save_image(tmp_path / "x.png", Image.fromarray(few).quantize(8)))
    assert np.array_equal(shown, few)


def test_a_palette_with_transparency_is_looked_up_without_a_warning(tmp_path, recwarn):
    few = (COLOURS > 127).astype(np.uint8) * 255
    path = save_image(tmp_path / "x.png", Image.fromarray(few).quantize(8), transparency=bytes([0, 128, 255]))
    assert np.array_equal(decode_image(path), few)
    assert not recwarn.list


def test_transparency_is_dropped_and_not_blended(tmp_path):
    layered = np.concatenate([COLOURS, GREYS[..., None]], axis=-1)
    assert np.array_equal(decode_image(save_image(tmp_path / "x.png", Image.fromarray(layered))), COLOURS)


def test_inks_become_light(tmp_path):
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    pixel = decode_image(save_image(tmp_path / "x.tif", cyan))[0, 0]
    assert tuple(pixel) == (0, 255, 255)


def test_the_first_of_several_frames_is_decoded(tmp_path):
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    path = save_image(tmp_path / "x.tif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_image(path), COLOURS)


def test_the_array_is_owned_by_the_caller(tmp_path):
    pixels = decode_image(save_image(tmp_path / "x.png", Image.fromarray(COLOURS)))
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000)])
def test_samples_without_an_agreed_white_are_refused(tmp_path, mode, value):
    path = save_image(tmp_path / "x.tif", Image.new(mode, (2, 2), value))
    with pytest.raises(InputError, match="no defined white level"):
        decode_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0garbage"])
def test_a_file_that_is_not_an_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png' cannot be decoded"):
        decode_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix):
    path = save_image(tmp_path / f"x.{suffix}", Image.fromarray(np.tile(COLOURS, (20, 20, 1))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"x\.(jpg|png)' cannot be decoded"):
        decode_image(path)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(30_000, 30_000))
    with pytest.raises(InputError, match="could fill the memory"):
        decode_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_pillow_would_only_warn_of_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(10_000, 10_000))
    with pytest.raises(InputError, match="could fill the memory"):
        decode_image(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file .*x\.png"):
        decode_image(tmp_path / "x.png")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        decode_image(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_decoded_or_explained(tmp_path, format_name, edits):
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, format_name)
    content = bytearray(buffer.getvalue())
    for position, value in edits:
        content[position % len(content)] = value
    path = tmp_path / "x.img"
    path.write_bytes(content)
    try:
        pixels = decode_image(path)
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)


def test_damage_is_distinguished_from_other_errors(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "huge.png").write_bytes(png(30_000, 30_000))
    kinds = []
    for name in ("damaged.png", "huge.png", "missing.png"):
        with pytest.raises(InputError) as caught:
            decode_image(tmp_path / name)
        kinds.append(caught.type)
    assert kinds == [UndecodableImage, InputError, InputError]


def test_out_of_memory_is_not_reported_as_damage(tmp_path, monkeypatch):
    path = save_image(tmp_path / "x.png", Image.fromarray(COLOURS))

    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match="out of memory") as caught:
        decode_image(path)
    assert caught.type is InputError


def test_concurrent_decoding_gives_equal_pixels_and_preserves_warning_filters(tmp_path, recwarn):
    few = (COLOURS > 127).astype(np.uint8) * 255
    path = save_image(tmp_path / "x.png", Image.fromarray(few).quantize(8), transparency=bytes([0, 128, 255]))
    decode_image(path)
    filters = list(warnings.filters)
    assert all(np.array_equal(pixels, few) for pixels in prefetch_results(decode_image, [path] * 200))
    assert warnings.filters == filters
    assert not recwarn.list


def png(width, height, depth=8, rows=b""):
    """An RGB image encoded in the test: Pillow writes neither 16-bit colour nor false headers."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
