"""Errors that a user of `convnext-train` can act on; each message names the value, the rule and the way out."""

from convnext_imagenet.base.errors import ExpectedError


class TrainError(ExpectedError):
    """Training cannot start or continue."""


class ConfigError(TrainError):
    """A configuration that is unknown, misspelt, of a wrong type or out of range; one line for each of `faults`."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return the only fault, or how many there are and then each of them."""
        if len(self.faults) == 1:
            return [*self.faults]
        return [f"{len(self.faults)} faults in the configuration:", *(f"  {text}" for text in self.faults)]
