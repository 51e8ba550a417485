import pytest
import torch
from torchvision import models

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import ModelSpec, Preprocessing, WeightsSource
from deploykit.export.networks import sources
from deploykit.export.networks.weights import load_network
from deploykit.export.prepare import wrap_network

RANDOM = WeightsSource("random")


def load(text, source=RANDOM, *arguments):
    architecture = sources.find_architecture(text)
    return load_network(architecture, sources.parse_arguments(architecture, arguments), source)


# ── The network ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_network_equals_torchvisions(tmp_path):
    own = models.squeezenet1_1().eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    module = load("torchvision:squeezenet1_1", WeightsSource("file", path=str(tmp_path / "own.pth"))).module
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(module(pixels), own(pixels))


def test_the_name_states_the_source():
    assert sources.find_architecture("torchvision:squeezenet1_1").name == "torchvision:squeezenet1_1"


def test_resolving_a_network_allocates_no_weights():
    from deploykit.export.networks.sources.outline import build_outline

    assert all(parameter.is_meta for parameter in build_outline(models.vgg16).parameters() if parameter.dim() > 1)


def test_a_network_whose_builder_computes_with_tensors_is_resolved():
    assert sources.find_architecture("torchvision:regnet_y_400mf").classifier == "fc"


def test_resolving_a_network_preserves_the_random_state():
    torch.manual_seed(5)
    sources.find_architecture("torchvision:squeezenet1_1")
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


# ── Values of `--model-arg` ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_number_of_classes_can_be_set():
    assert load("torchvision:squeezenet1_1", RANDOM, "num_classes=7").module(torch.zeros(1, 3, 64, 64)).shape == (
        1,
        7,
    )


def test_the_number_of_classes_is_read_from_the_checkpoint(tmp_path):
    torch.save(models.shufflenet_v2_x0_5(num_classes=7).state_dict(), tmp_path / "own.pth")
    network = load("torchvision:shufflenet_v2_x0_5", WeightsSource("file", path=str(tmp_path / "own.pth")))
    assert network.arguments["num_classes"] == 7


def test_parameters_that_text_cannot_express_are_not_offered():
    with pytest.raises(UsageError, match="choose from groups, num_classes, width_per_group, zero_init_residual"):
        sources.parse_arguments(sources.find_architecture("torchvision:resnet18"), ["norm_layer=x"])


def test_a_required_size_with_a_default_in_the_builder_can_be_set():
    assert sources.parse_arguments(sources.find_architecture("torchvision:vit_b_16"), ["image_size=384"]) == {
        "image_size": 384
    }


# ── Preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preprocessing_is_that_of_the_default_weights():
    assert sources.find_architecture("torchvision:resnet50").preprocessing == Preprocessing(232, 224, 224)


def test_a_different_interpolation_is_noted():
    (note,) = sources.find_architecture("torchvision:swin_t").notes
    assert "bicubic" in note


def test_the_same_interpolation_is_not_noted():
    assert sources.find_architecture("torchvision:squeezenet1_1").notes == ()


def test_weights_for_a_fixed_image_size_set_that_size():
    architecture = sources.find_architecture("torchvision:vit_h_14")
    assert architecture.arguments["image_size"] == architecture.preprocessing.height == 518


def test_googlenets_internal_rescaling_is_part_of_the_released_preprocessing():
    network, released = (
        models.googlenet(transform_input=True, init_weights=False),
        sources.find_architecture("torchvision:googlenet"),
    )
    inside = network._transform_input(
        models.GoogLeNet_Weights.DEFAULT.transforms()(torch.full((3, 300, 300), 200.0 / 255))[None]
    )
    spec = released.pretrained.preprocessing
    ours = (200 * spec.scale - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    assert torch.allclose(inside[0, :, 0, 0], ours, atol=1e-5)


# ── Heads and training-only modules ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("squeezenet1_1", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("vit_b_16", "heads.head"),
        ("maxvit_t", "classifier.5"),
        ("inception_v3", "fc"),
        ("googlenet", "fc"),
    ],
)
def test_the_classifier_is_the_last_layer_with_the_class_outputs(name, classifier):
    assert sources.find_architecture(f"torchvision:{name}").classifier == classifier


def test_an_embedding_is_the_input_of_the_classifier():
    architecture = sources.find_architecture("torchvision:shufflenet_v2_x0_5")
    network = load_network(architecture, {}, RANDOM)
    spec = ModelSpec(architecture.name, "", "", network.arguments, network.preprocessing, head="embedding")
    assert wrap_network(network.module, spec, architecture.classifier)(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


@pytest.mark.parametrize(("name", "parts"), [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))])
def test_auxiliary_classifiers_are_for_training_only(name, parts):
    assert sources.find_architecture(f"torchvision:{name}").training_only == parts


# ── Released weights ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_released_weights_are_the_default_ones():
    assert (
        sources.find_architecture("torchvision:mobilenet_v3_large").pretrained.enum
        == "MobileNet_V3_Large_Weights.IMAGENET1K_V2"
    )


def test_released_weights_name_their_classes():
    assert sources.released_classes("MobileNet_V3_Large_Weights.IMAGENET1K_V2")[0] == "tench"


def test_released_weights_have_the_classes_that_they_were_trained_for():
    architecture = sources.find_architecture("torchvision:squeezenet1_1")
    with pytest.raises(InputError, match="num_classes=7 was requested, but"):
        load_network(architecture, {"num_classes": 7}, WeightsSource("imagenet"))
