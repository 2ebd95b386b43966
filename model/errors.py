"""The one error that model/ raises for what a user can mend: a setting, a device, a weights file."""


class ModelError(Exception):
    """A configuration, device or weights file that cannot be used; the message names the way out."""
