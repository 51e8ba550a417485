import subprocess
import sys

import pytest

from deploykit.core.errors import BackendError, InputError
from deploykit.export.networks import sources
from deploykit.export.networks.sources import registered


def test_a_catalog_name_is_accepted():
    sources.require_known_model("resnet18")


def test_a_catalog_name_resolves_to_the_catalog():
    assert sources.find_architecture("resnet18").family == "ResNet"


def test_a_name_that_only_a_library_has_gets_the_full_name():
    with pytest.raises(InputError, match="did you mean torchvision:mobilenet_v3_large"):
        sources.require_known_model("mobilenet_v3_large")


def test_an_unknown_name_gets_the_nearest_of_the_catalog():
    with pytest.raises(InputError, match="unknown model 'resnt50'; did you mean resnet50"):
        sources.require_known_model("resnt50")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_misspelt_name_of_a_library_gets_the_nearest(library):
    with pytest.raises(InputError, match=f"{library} has no model 'resnt18'; did you mean resnet18"):
        sources.require_known_model(f"{library}:resnt18")


def test_a_misspelt_library_gets_the_nearest():
    with pytest.raises(InputError, match="Did you mean torchvision:resnet18"):
        sources.require_known_model("torchvison:resnet18")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fasterrcnn_resnet50_fpn", "detects objects"),
        ("deeplabv3_resnet50", "labels pixels"),
        ("r3d_18", "clip"),
        ("raft_small", "two images"),
        ("quantized_resnet18", "PyTorch's own"),
    ],
)
def test_networks_without_a_classifier_are_refused_with_the_reason(name, reason):
    with pytest.raises(InputError, match=reason):
        sources.require_known_model(f"torchvision:{name}")


def test_the_torchvision_names_are_those_that_it_registers():
    from torchvision import models

    assert set(registered.registered_models("torchvision", "export")) == set(models.list_models())


def test_the_torchvision_classifiers_are_those_of_its_models_module():
    from torchvision import models

    from deploykit.export.networks.sources import torchvision

    assert set(torchvision.list_models()) == set(models.list_models(models))


def test_the_timm_names_are_those_that_it_registers():
    timm = pytest.importorskip("timm")
    assert set(timm.list_models(include_tags=False)) <= set(registered.registered_models("timm", "timm"))


def test_a_missing_library_gets_the_install_command():
    with pytest.raises(BackendError, match=r"-m pip install .*\[extra\]'"):
        registered.registered_models("a_library_that_nobody_has", "extra")


def test_a_catalog_name_is_its_identity():
    assert sources.network_identity("resnet18") == "resnet18"


def test_a_library_network_is_identified_by_name_and_version():
    from importlib.metadata import version

    assert sources.network_identity("torchvision:resnet18").endswith(version("torchvision"))


def test_checking_names_imports_no_heavy_library():
    program = (
        "import sys; from deploykit.export.networks import sources; sources.require_known_model('resnet18');"
        "sources.require_known_model('torchvision:resnet18'); sources.require_known_model('timm:resnet18');"
        "sources.network_identity('timm:resnet18');"
        "print(*sorted({'torch', 'torchvision', 'timm', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
