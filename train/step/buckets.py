"""Buckets: parameters that all-reduce, optimizer and average treat as one, so that they take a few kernels in all.

A device that pays for each kernel and each all-reduce wants few of them: ConvNeXt-T has 182 parameters. Each bucket
joins the values of up to `most` parameters that the optimizer treats alike in one float32 buffer. The network computes
with copies of them, which may be of a lower precision, and which take their values from the buffers after each step.
With one parameter a bucket and float32 everywhere there is no buffer and no copy: the parameter is its own bucket.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, mint, nn, ops

Shape = tuple[int, ...]
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Bucket:
    """The parameters of one buffer, by name, with their shapes; their values follow each other in this order."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def name(self) -> str:
        """Return the name of the only parameter, or of the first and the number of those after it."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]}+{len(self.names) - 1}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of each parameter."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return each parameter's part of the buffer's values, by name, in its shape."""
        parts = np.split(values.reshape(-1), np.cumsum(self.sizes)[:-1])
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def join(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the buffer's values: those of a single parameter in its own shape, else flat."""
        if len(self.names) == 1:
            return values[self.names[0]]
        return np.concatenate([values[name].reshape(-1) for name in self.names])


def plan_buckets(shapes: Mapping[str, Shape], kinds: Mapping[str, Hashable], most: int) -> list[Bucket]:
    """Return buckets of at most `most` parameters of one kind each, every parameter once, in the order of `shapes`."""
    by_kind: dict[Hashable, list[str]] = {}
    for name in shapes:
        by_kind.setdefault(kinds[name], []).append(name)
    chunks = [names[start : start + most] for names in by_kind.values() for start in range(0, len(names), most)]
    if most == 1:
        chunks = [[name] for name in shapes]
    return [Bucket(tuple(names), tuple(tuple(shapes[name]) for name in names)) for names in chunks]


class Buckets(nn.Cell):
    """(one gradient for each of `parameters`) -> (one float32 gradient for each bucket of `plan`).

    `lowered` is the type of the network's copies of some parameters; a bucket's copies have one type. Afterwards the
    values of all parameters are in `buffers`; those of `parameters` follow by `publish` or `refresh`.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], plan: Sequence[Bucket], lowered: Mapping[str, Any] = NOTHING
    ) -> None:
        super().__init__(auto_prefix=False)
        self.plan = tuple(plan)
        order = {name: index for index, name in enumerate(parameters)}
        self.indices = tuple(tuple(order[name] for name in bucket.names) for bucket in plan)
        self.copies = ParameterTuple(tuple(parameters.values()))
        self.sizes = tuple(bucket.sizes for bucket in plan)
        self.types = tuple(lowered.get(bucket.names[0], ms.float32) for bucket in plan)
        self.is_copied = tuple(
            len(bucket.names) > 1 or kind != ms.float32 for bucket, kind in zip(self.plan, self.types, strict=True)
        )
        # Buckets are then the parameters in their order, and nothing is to be done: loops over them would be a third of
        # the graph that MindSpore has to optimise (DECISIONS, 2026-11-30).
        is_in_order = self.indices == tuple((index,) for index in range(len(parameters)))
        self.has_no_copies = is_in_order and not any(self.is_copied)
        buffers = (
            _buffer(bucket, parameters) if is_copied else parameters[bucket.names[0]]
            for bucket, is_copied in zip(self.plan, self.is_copied, strict=True)
        )
        self.buffers = ParameterTuple(tuple(buffers))
        for name, kind in lowered.items():
            parameters[name].set_dtype(kind)

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.has_no_copies:
            return gradients
        joined: tuple[Tensor, ...] = ()
        for indices in self.indices:
            joined = (*joined, self.join(gradients, indices))
        return joined

    def join(self, gradients: tuple[Tensor, ...], indices: tuple[int, ...]) -> Tensor:
        """Return the gradients `indices` as one float32 tensor, flat if there are several."""
        if len(indices) == 1:
            return ops.cast(gradients[indices[0]], ms.float32)
        flat = [ops.reshape(gradients[index], (-1,)) for index in indices]
        return ops.cast(ops.concat(flat), ms.float32)

    def publish(self, done: Tensor) -> Tensor:
        """Give the network's copies the values that the buffers have after `done`; return a value to depend on."""
        if self.has_no_copies:
            return done
        for bucket in range(len(self.indices)):
            if self.is_copied[bucket]:
                done = self.publish_one(bucket, done)
        return done

    def publish_one(self, bucket: int, done: Tensor) -> Tensor:
        """Do the same for one bucket; `copy_` casts, too."""
        parts = mint.split(ops.reshape(ops.depend(self.buffers[bucket], done), (-1,)), self.sizes[bucket])
        for part, index in enumerate(self.indices[bucket]):
            copy = self.copies[index]
            done = ops.depend(done, copy.copy_(ops.reshape(parts[part], copy.shape)))
        return done

    def refresh(self) -> None:
        """Give the network's copies the values of the buffers now, outside of a graph."""
        arrays = self.arrays(self.buffers)
        for number, bucket in enumerate(self.plan):
            if not self.is_copied[number]:
                continue
            for name, index in zip(bucket.names, self.indices[number], strict=True):
                self.copies[index].set_data(Tensor(arrays[name], self.types[number]))

    def arrays(self, parameters: Sequence[Parameter | None], prefix: str = "") -> dict[str, np.ndarray]:
        """Return copies of the values that `parameters`, one for each bucket, hold for each name, after `prefix`.

        A bucket whose parameter is None has no values.
        """
        found: dict[str, np.ndarray] = {}
        for bucket, parameter in self._kept(parameters):
            parts = bucket.split(parameter.asnumpy())
            found |= {prefix + name: part.copy() for name, part in parts.items()}
        return found

    def fill(self, parameters: Sequence[Parameter | None], arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
        """Set `parameters`, one for each bucket or None, to these values by name, after `prefix`."""
        for bucket, parameter in self._kept(parameters):
            values = bucket.join({name: arrays[prefix + name] for name in bucket.names})
            parameter.set_data(Tensor(np.ascontiguousarray(values)))

    def _kept(self, parameters: Sequence[Parameter | None]) -> Iterator[tuple[Bucket, Parameter]]:
        for bucket, parameter in zip(self.plan, parameters, strict=True):
            if parameter is not None:
                yield bucket, parameter


def _buffer(bucket: Bucket, parameters: Mapping[str, Parameter]) -> Parameter:
    values = bucket.join({name: parameters[name].asnumpy() for name in bucket.names})
    return Parameter(Tensor(values), name=f"bucket.{bucket.name}")
