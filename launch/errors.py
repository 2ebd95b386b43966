"""What a user can cause and cure when starting several processes."""

from convnext_imagenet.records.errors import ExpectedError


class LaunchError(ExpectedError):
    """A number of devices, nodes or a target that cannot be had here, or ranks that do not agree."""
