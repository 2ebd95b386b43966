"""Errors that a user of `convnext-train` can act on; each message names the value, the rule and the way out."""

from convnext_imagenet.base.errors import ExpectedError


class TrainError(ExpectedError):
    """Training cannot start or continue."""


class ConfigError(TrainError):
    """A configuration that is unknown, misspelt, of a wrong type or out of range."""
