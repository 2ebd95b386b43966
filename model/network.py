"""The network for evaluation: pixels in, logits out; the device normalises."""

from mindspore import Tensor, float32, nn, ops

from convnext_imagenet.model.convnext import ConvNeXt
from convnext_imagenet.model.transform import EvalTransform, scale_and_shift


class Classifier(nn.Cell):
    """A network over pixels 0..255: uint8 or float (N, S, S, 3) -> logits (N, K), or features without a head; float32.

    The parameters of the wrapped network keep their names without a prefix.
    """

    def __init__(self, network: ConvNeXt, transform: EvalTransform) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.scale_C, self.shift_C = map(Tensor, scale_and_shift(transform))

    def construct(self, pixels_NHWC: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        return ops.cast(self.network(self.normalised(pixels_NHWC), keep_NB), float32)

    def normalised(self, pixels_NHWC: Tensor) -> Tensor:
        """Return the pixels as the network takes them, float32, of about zero mean and unit deviation."""
        return ops.cast(pixels_NHWC, float32) * self.scale_C + self.shift_C


class FeatureClassifier(nn.Cell):
    """The same network -> logits (N, K), and the pooled and normalised features (N, C) before the head, float32.

    Without a head only the features.
    """

    def __init__(self, network: ConvNeXt, transform: EvalTransform) -> None:
        super().__init__(auto_prefix=False)
        self.classifier = Classifier(network, transform)

    def construct(self, pixels_NHWC: Tensor) -> tuple[Tensor, ...]:
        network = self.classifier.network
        features_NC = network.features(self.classifier.normalised(pixels_NHWC))
        if network.head is None:
            return (ops.cast(features_NC, float32),)
        return ops.cast(network.head(features_NC), float32), ops.cast(features_NC, float32)
