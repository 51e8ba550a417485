import pytest
import torch
import torchvision

from deploykit.export.architectures.googlenet import GOOGLENET, TABLE, GoogLeNet

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

# Table 1 of the paper: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj, output channels.
PAPER = {
    "3a": (64, 96, 128, 16, 32, 32, 256),
    "3b": (128, 128, 192, 32, 96, 64, 480),
    "4a": (192, 96, 208, 16, 48, 64, 512),
    "4b": (160, 112, 224, 24, 64, 64, 512),
    "4c": (128, 128, 256, 24, 64, 64, 512),
    "4d": (112, 144, 288, 32, 64, 64, 528),
    "4e": (256, 160, 320, 32, 128, 128, 832),
    "5a": (256, 160, 320, 32, 128, 128, 832),
    "5b": (384, 192, 384, 48, 128, 128, 1024),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GoogLeNet(num_classes=7)


@pytest.mark.parametrize("row", PAPER)
def test_an_inception_module_has_the_widths_of_table_1(row, network):
    module = getattr(network, f"inception{row}")
    convolutions = (
        module.branch1,
        *module.branch2,
        *module.branch3,
        module.branch4[1],
    )
    assert tuple(block.conv.out_channels for block in convolutions) == PAPER[row][:6]


@pytest.mark.parametrize("row", PAPER)
def test_an_inception_module_outputs_the_channels_of_table_1(row):
    assert TABLE[row].out_channels == PAPER[row][6]


@pytest.mark.parametrize(("branch3_kernel", "pool_kernel"), [(5, 3), (3, 2)])
def test_one_option_sets_the_third_branch_and_the_last_pooling(branch3_kernel, pool_kernel):
    with torch.device("meta"):
        network = GoogLeNet(branch3_kernel=branch3_kernel)
    assert network.inception3a.branch3[1].conv.kernel_size == (branch3_kernel, branch3_kernel)
    assert network.maxpool4.kernel_size == pool_kernel


@pytest.mark.parametrize("branch3_kernel", [3, 5])
def test_a_checkpoint_reveals_the_third_branch(branch3_kernel):
    with torch.device("meta"):
        state = GoogLeNet(branch3_kernel=branch3_kernel).state_dict()
    (rule,) = [rule for rule in GOOGLENET.inferred_arguments if rule.argument == "branch3_kernel"]
    assert state[rule.parameter].shape[rule.axis] == branch3_kernel


def test_training_mode_outputs_the_main_and_both_auxiliary_logits(network):
    assert [logits.shape for logits in network.train()(IMAGES)] == [(2, 7)] * 3


def test_training_computes_what_torchvision_computes():
    oracle = torchvision.models.GoogLeNet(num_classes=7, init_weights=False, dropout=0, dropout_aux=0).double()
    ours = GoogLeNet(branch3_kernel=3, num_classes=7, dropout=0, dropout_aux=0).double()
    ours.load_state_dict(oracle.state_dict())
    expected = oracle(IMAGES.double())
    torch.testing.assert_close(ours(IMAGES.double()), (expected.logits, expected.aux_logits2, expected.aux_logits1))


@pytest.mark.parametrize(
    ("output", "reached", "unreached"),
    [
        (0, ["fc", "inception5b", "inception4a", "conv1"], ["aux1", "aux2"]),
        (1, ["aux2", "inception4d", "inception4a", "conv1"], ["fc", "aux1", "inception4e"]),
        (2, ["aux1", "inception4a", "conv1"], ["fc", "aux2", "inception4b"]),
    ],
    ids=["logits", "aux2", "aux1"],
)
def test_gradient_of_a_training_output_reaches_all_earlier_layers(network, output, reached, unreached):
    network.zero_grad()
    network.train()(IMAGES)[output].square().sum().backward()
    assert {path: has_gradient(network, path) for path in reached} == dict.fromkeys(reached, True)
    assert {path: has_gradient(network, path) for path in unreached} == dict.fromkeys(unreached, False)


def has_gradient(network: torch.nn.Module, path: str) -> bool:
    gradients = [parameter.grad for parameter in network.get_submodule(path).parameters()]
    return any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def test_eval_output_does_not_depend_on_the_auxiliary_heads(network):
    network.eval()
    before = network(IMAGES)
    for path in GOOGLENET.training_only:
        for parameter in network.get_submodule(path).parameters():
            parameter.data.fill_(torch.nan)
    assert torch.equal(network(IMAGES), before)
