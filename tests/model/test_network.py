"""Pixels are normalised on the device, and wrapping a network renames nothing."""

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.model.convnext import ConvNeXt, block_count, parameter_shapes
from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import assign_parameters

TRANSFORM = EvalTransform(size_px=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def classifier(make_config, make_arrays) -> Classifier:
    network = ConvNeXt(make_config())
    assign_parameters(network, make_arrays(make_config()))
    return Classifier(network, TRANSFORM)


def test_logits_are_those_of_normalised_pixels(classifier, make_config, make_arrays, reference):
    config, arrays = make_config(), make_arrays(make_config())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    x = (pixels / 255.0 - np.array(TRANSFORM.mean)) / np.array(TRANSFORM.std)
    expected = reference.logits(x, arrays, config.depths)
    for given in (pixels, pixels.astype(np.float32)):
        found = classifier(Tensor(given)).asnumpy()
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_keep_reaches_the_network(classifier, make_config):
    pixels = Tensor(np.full((2, 32, 32, 3), 200, np.uint8))  # of the shape above, which is compiled already
    keep_NB = Tensor(np.zeros((2, block_count(make_config())), np.float32))
    assert np.abs(classifier(pixels).asnumpy() - classifier(pixels, keep_NB).asnumpy()).max() > 1e-3


def test_wrapped_parameters_keep_their_names(classifier, make_config):
    names = [parameter.name for parameter in classifier.trainable_params()]
    assert sorted(names) == sorted(parameter_shapes(make_config()))
