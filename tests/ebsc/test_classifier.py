"""Base classifiers: shapes, sizes, and what they refuse."""

import pytest
import torch

from ebsc import classifier
from ebsc.errors import InputError


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *(("linear", shape) for shape in [(1, 8, 8), (3, 9, 11), (1, 1, 2)]),
        *(("lenet", shape) for shape in [(1, 28, 28), (3, 32, 32), (1, 16, 16), (2, 17, 19)]),
        *((kind, shape) for kind in ("cnn", "resnet") for shape in [(1, 8, 8), (3, 32, 32), (3, 9, 11), (1, 1, 2)]),
    ],
)
def test_logits_of_an_image_do_not_depend_on_its_neighbours(kind, shape):
    f = classifier.build(kind, shape, 7).double().eval()
    x = torch.rand(3, *shape, dtype=torch.float64)
    together = f(x)
    assert together.shape == (3, 7)
    torch.testing.assert_close(together, torch.cat([f(image[None]) for image in x]))
    assert (together[0] != together[1]).any()


def test_the_linear_classifier_is_an_affine_map_of_the_pixels():
    f = classifier.build("linear", (2, 3, 4), 5).double()
    x = torch.rand(6, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(f(x), x.reshape(6, 24) @ f.map.weight.T + f.map.bias)


def test_the_lenet_on_mnist_has_as_many_weights_as_the_published_one():
    assert sum(weight.numel() for weight in classifier.build("lenet", (1, 28, 28), 10).parameters()) == 431_080


@pytest.mark.parametrize(
    ("kind", "option", "times"), [("resnet", "width", 3), ("cnn", "width", 1.8), ("cnn", "hidden", 1)]
)
def test_the_width_of_a_network_can_be_chosen(kind, option, times):
    narrow, wide = (classifier.build(kind, (1, 8, 8), 10, **{option: size}) for size in (4, 8))
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters()) / times
    with pytest.raises(InputError, match="width must be at least 1, not 0"):
        classifier.build(kind, (1, 8, 8), 10, **{option: 0})


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 15, 28), (1, 28, 15)])
def test_a_lenet_refuses_images_too_small_for_it(shape):
    with pytest.raises(InputError, match=f"16 x 16 or more, not {shape[1]} x {shape[2]}"):
        classifier.build("lenet", shape, 10)


def test_an_unknown_classifier_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match=r"'vgg'.*linear, lenet, cnn, resnet"):
        classifier.build("vgg", (1, 8, 8), 10)


def test_a_residual_block_skips_by_a_convolution_with_its_stride():
    torch.manual_seed(0)
    resnet = classifier.build("resnet", (1, 9, 9), 3, width=4).eval()
    block, x = resnet.stages[1], torch.randn(5, 4, 9, 9)
    convolution, norm = block.skip
    skipped = norm(torch.nn.functional.conv2d(x, convolution.weight, stride=2))
    torch.testing.assert_close(block(x), torch.nn.functional.relu(block.body(x) + skipped))
