"""What a user can cause and cure when starting several processes."""

from convnext_imagenet.base.errors import ExpectedError, FailedError


class LaunchError(ExpectedError):
    """A number of devices, nodes or a target that cannot be had here, or ranks that do not agree."""


class FailedLaunchError(LaunchError):
    """The machines gave out half-way; finished units are kept and the same command goes on."""

    exit_code = FailedError.exit_code
