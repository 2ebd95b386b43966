"""Errors of starting several processes that a user can correct."""

from convnext_imagenet.base.errors import ExpectedError, FailedError


class LaunchError(ExpectedError):
    """Devices, nodes or a target that are not available here, or ranks that differ."""


class FailedLaunchError(LaunchError):
    """The machines failed half-way; finished units are kept and the same command resumes."""

    exit_code = FailedError.exit_code
