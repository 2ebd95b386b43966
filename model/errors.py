"""The error that model/ raises for a problem that a user can fix: a setting, a device, a weights file."""

from convnext_imagenet.base.errors import ExpectedError


class ModelError(ExpectedError):
    """A configuration, device or weights file that cannot be used; the message names the way out."""
