"""Errors of evaluation and prediction that a user can fix: one line on the screen and an exit code."""

from convnext_imagenet.base.errors import ExpectedError


class ServeError(ExpectedError):
    """A checkpoint, image or directory that cannot be used; the message names the way out."""


class ErrorRows(ServeError):
    """A finished job with more error rows than the user allowed."""

    exit_code = 3
