import math

import pytest
import torch

from deploykit.core.errors import InputError
from deploykit.core.values import WeightsSource
from deploykit.export.networks import sources
from deploykit.export.networks.weights import load_network

timm = pytest.importorskip("timm", reason="timm is an extra")

RANDOM = WeightsSource("random")
SMALL = "timm:test_resnet.r160_in1k"


def test_the_network_equals_timms(tmp_path):
    own = timm.create_model("test_resnet").eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    module = load_network(
        sources.find_architecture(SMALL), {}, WeightsSource("file", path=str(tmp_path / "own.pth"))
    ).module
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(module(pixels), own(pixels), atol=1e-5)


def test_a_name_without_a_tag_has_the_default_ones_configuration():
    assert sources.find_architecture("timm:test_resnet").pretrained.enum == SMALL


def test_the_error_for_an_unknown_tag_lists_the_valid_ones():
    with pytest.raises(InputError, match="no weights 'nothing' of test_resnet; it has r160_in1k"):
        sources.find_architecture("timm:test_resnet.nothing")


def test_attention_is_of_plain_products():
    module = load_network(sources.find_architecture("timm:test_vit"), {}, RANDOM).module
    assert not module.blocks[0].attn.fused_attn


# ── Preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preprocessing_is_that_of_its_configuration():
    spec = sources.find_architecture(SMALL).preprocessing
    assert (spec.resize, spec.height, spec.width) == (math.floor(160 / 0.95), 160, 160)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_images_are_resized_as_in_timm():
    own = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("resnet18.a1_in1k").to_dict())
    )
    assert sources.find_architecture("timm:resnet18.a1_in1k").preprocessing.resize == own.transforms[0].size


def test_a_different_interpolation_is_noted():
    assert any("bicubic" in note for note in sources.find_architecture("timm:resnet18.a1_in1k").notes)


def test_a_crop_larger_than_the_resized_image_is_resized_instead_of_padded():
    architecture = sources.find_architecture("timm:volo_d4_448")  # crop_pct 1.15
    assert (architecture.preprocessing.resize, architecture.preprocessing.height) == (448, 448)
    assert any("resized to 389 pixels and padded to 448" in note for note in architecture.notes)


def test_a_network_without_classes_is_noted():
    assert any("features" in note for note in sources.find_architecture("timm:vit_small_patch14_dinov2.lvd142m").notes)


def test_a_restrictive_licence_is_noted():
    assert any("cc-by-nc-4.0" in note for note in sources.find_architecture("timm:convnextv2_atto.fcmae_ft_in1k").notes)


# ── Arguments and heads ───────────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_are_converted_to_the_types_of_the_class():
    architecture = sources.find_architecture("timm:test_vit")
    arguments = sources.parse_arguments(
        architecture, ["num_classes=7", "qkv_bias=false", "drop_rate=0.5", "img_size=64"]
    )
    assert arguments == {"num_classes": 7, "qkv_bias": False, "drop_rate": 0.5, "img_size": 64}


def test_arguments_passed_on_to_a_base_class_can_be_set():
    assert sources.parse_arguments(sources.find_architecture("timm:levit_128s"), ["num_classes=7"]) == {
        "num_classes": 7
    }


def test_the_number_of_classes_is_read_from_the_checkpoint(tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "own.pth")
    network = load_network(sources.find_architecture(SMALL), {}, WeightsSource("file", path=str(tmp_path / "own.pth")))
    assert network.arguments["num_classes"] == 7


def test_the_classifier_is_that_of_the_configuration():
    assert sources.find_architecture(SMALL).classifier == "fc"


def test_a_distilled_network_has_no_one_classifier():
    assert sources.find_architecture("timm:deit_tiny_distilled_patch16_224").classifier == ""


# ── Released weights ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_released_weights_come_from_timms_hub(monkeypatch, tmp_path):
    """A folder with the downloaded files replaces the hub."""
    from safetensors.torch import save_file

    torch.manual_seed(3)
    own = timm.create_model("test_resnet").eval()
    file = tmp_path / "model.safetensors"
    save_file(own.state_dict(), file)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", lambda *_, **__: str(file))
    network = load_network(sources.find_architecture(SMALL), {}, WeightsSource("imagenet"))
    assert network.record.source == SMALL
    assert network.record.trained
    assert all(torch.equal(weight, network.module.state_dict()[name]) for name, weight in own.state_dict().items())


def test_a_failed_download_reports_the_reason_and_the_source(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", unreachable)
    with pytest.raises(InputError) as caught:
        load_network(sources.find_architecture(SMALL), {}, WeightsSource("imagenet"))
    source = "huggingface.co/timm/test_resnet.r160_in1k"
    assert f"test_resnet.r160_in1k could not be downloaded from {source}" in caught.value.what
    assert "Name or service not known" in caught.value.what
    assert "--weights PATH" in caught.value.remedy


def test_released_weights_name_their_classes():
    assert sources.released_classes("timm:resnet18.a1_in1k")[0].startswith("tench")


def test_classes_unnamed_by_timm_have_no_labels():
    assert sources.released_classes("timm:vit_small_patch14_dinov2.lvd142m") == ()
