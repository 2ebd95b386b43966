"""What a user of a frozen network can do wrong, and the two ways a job ends without being done."""

from convnext_imagenet.base.errors import ExpectedError


class ServeError(ExpectedError):
    """A checkpoint, an image or a directory that cannot be used, with the way out."""


class ErrorRows(ServeError):
    """A finished job that holds more error rows than the user allowed."""

    exit_code = 3
