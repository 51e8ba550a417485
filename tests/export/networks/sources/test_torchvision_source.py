import pytest
import torch
from torchvision import models

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import ModelSpec, Preprocessing, WeightsSource
from deploykit.export.networks import sources
from deploykit.export.networks.weights import load_network
from deploykit.export.prepare import wrap_network

RANDOM = WeightsSource("random")


def loaded(text, source=RANDOM, *arguments):
    architecture = sources.find_architecture(text)
    return load_network(architecture, sources.parse_arguments(architecture, arguments), source)


# ── The network ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_computes_what_torchvisions_own_does(tmp_path):
    own = models.squeezenet1_1().eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    module = loaded("torchvision:squeezenet1_1", WeightsSource("file", path=str(tmp_path / "own.pth"))).module
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(module(pixels), own(pixels))


def test_its_name_says_where_it_is_from():
    assert sources.find_architecture("torchvision:squeezenet1_1").name == "torchvision:squeezenet1_1"


def test_finding_it_takes_no_memory_for_its_weights():
    from deploykit.export.networks.sources.outline import build_outline

    assert all(each.is_meta for each in build_outline(models.vgg16).parameters() if each.dim() > 1)


def test_a_network_whose_builder_computes_with_tensors_is_found():
    assert sources.find_architecture("torchvision:regnet_y_400mf").classifier == "fc"


def test_finding_it_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    sources.find_architecture("torchvision:squeezenet1_1")
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


# ── What `--model-arg` takes ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_number_of_classes_can_be_set():
    assert loaded("torchvision:squeezenet1_1", RANDOM, "num_classes=7").module(torch.zeros(1, 3, 64, 64)).shape == (
        1,
        7,
    )


def test_the_classes_of_a_checkpoint_are_found_out(tmp_path):
    torch.save(models.shufflenet_v2_x0_5(num_classes=7).state_dict(), tmp_path / "own.pth")
    found = loaded("torchvision:shufflenet_v2_x0_5", WeightsSource("file", path=str(tmp_path / "own.pth")))
    assert found.arguments["num_classes"] == 7


def test_what_no_word_can_say_is_not_offered():
    with pytest.raises(UsageError, match="choose from groups, num_classes, width_per_group, zero_init_residual"):
        sources.parse_arguments(sources.find_architecture("torchvision:resnet18"), ["norm_layer=x"])


def test_a_required_size_with_a_default_in_the_builder_can_be_set():
    assert sources.parse_arguments(sources.find_architecture("torchvision:vit_b_16"), ["image_size=384"]) == {
        "image_size": 384
    }


# ── What images become ──────────────────────────────────────────────────────────────────────────────────────────────


def test_preprocessing_is_that_of_the_default_weights():
    assert sources.find_architecture("torchvision:resnet50").preprocessing == Preprocessing(232, 224, 224)


def test_another_interpolation_than_ours_is_noted():
    (note,) = sources.find_architecture("torchvision:swin_t").notes
    assert "bicubic" in note


def test_our_own_interpolation_needs_no_note():
    assert sources.find_architecture("torchvision:squeezenet1_1").notes == ()


def test_weights_that_are_for_one_size_only_bring_it_along():
    found = sources.find_architecture("torchvision:vit_h_14")
    assert found.arguments["image_size"] == found.preprocessing.height == 518


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


# ── Heads and what only training runs ───────────────────────────────────────────────────────────────────────────────


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
def test_the_classifier_is_the_last_layer_that_answers(name, classifier):
    assert sources.find_architecture(f"torchvision:{name}").classifier == classifier


def test_an_embedding_is_what_the_classifier_would_read():
    architecture = sources.find_architecture("torchvision:shufflenet_v2_x0_5")
    found = load_network(architecture, {}, RANDOM)
    spec = ModelSpec(architecture.name, "", "", found.arguments, found.preprocessing, head="embedding")
    assert wrap_network(found.module, spec, architecture.classifier)(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


@pytest.mark.parametrize(("name", "parts"), [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))])
def test_auxiliary_classifiers_are_for_training_only(name, parts):
    assert sources.find_architecture(f"torchvision:{name}").training_only == parts


# ── Released weights ────────────────────────────────────────────────────────────────────────────────────────────────


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
