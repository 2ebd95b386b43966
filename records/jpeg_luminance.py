"""The luminance coefficients of the image that libjpeg has just read, where they lie in its memory.

Only what `jpeglib.h` makes public is used: the result of `jpeg_read_coefficients`, `access_virt_barray`, and fields
that lie at the same offsets in every version since 6b on 64-bit machines. They are compared with each other, and a
picture with a known luminance is tested before the first image (`jpeg_warnings.py`): what differs has no luminance.
"""

import ctypes
import functools
import struct
from collections.abc import Callable

from convnext_imagenet.records.small_picture import BLOCK_PX, Luminance, lowest_frequencies

_POINTER = struct.Struct("=Q")
# In jpeg_decompress_struct.
_MEMORY_AT = 8  # jpeg_memory_mgr *mem
_FRAME_AT, _FRAME = 48, struct.Struct("=IIii")  # image_width, image_height, num_components, jpeg_color_space
_COMPONENTS_AT = 304  # jpeg_component_info *comp_info
# In jpeg_component_info.
_BLOCKS_AT, _BLOCKS = 28, struct.Struct("=II")  # width_in_blocks, height_in_blocks
_QUANTISER_AT = 80  # JQUANT_TBL *quant_table, which begins with 64 numbers of 16 bits
_COMPONENT_BYTES = 96
# In jpeg_memory_mgr.
_ACCESS_AT = 8 * 8  # access_virt_barray, the ninth function
_ACCESS = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int
)
_WITH_LUMINANCE = (1, 3)  # JCS_GRAYSCALE, JCS_YCbCr: the first component is the luminance
_BLOCK_BYTES = 2 * BLOCK_PX * BLOCK_PX
_MOST_PADDING = 4  # blocks at the end of a row: the largest sampling factor
_READ_ONLY = 0x100  # PyBUF_READ
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype, _view.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)


def luminance(decoder: ctypes.Array[ctypes.c_char], arrays: int) -> Luminance | None:
    """Return a copy of the lowest frequencies of the luminance.

    `arrays` is the result of `jpeg_read_coefficients`. None for colour spaces without luminance (RGB, CMYK, YCCK), for
    a luminance of fewer samples than the image has pixels, on other than 64-bit machines, and when the library keeps
    its coefficients otherwise.
    """
    if struct.calcsize("P") != _POINTER.size:
        return None
    width, height, components, space = _FRAME.unpack_from(decoder, _FRAME_AT)
    (described,) = _POINTER.unpack_from(decoder, _COMPONENTS_AT)
    if space not in _WITH_LUMINANCE or components not in _WITH_LUMINANCE or not described:
        return None
    component = ctypes.string_at(described, _COMPONENT_BYTES)
    columns, rows = _BLOCKS.unpack_from(component, _BLOCKS_AT)
    (quantiser,) = _POINTER.unpack_from(component, _QUANTISER_AT)
    if (rows, columns) != (-(-height // BLOCK_PX), -(-width // BLOCK_PX)) or not quantiser:
        return None
    (memory,) = _POINTER.unpack_from(decoder, _MEMORY_AT)
    access = _access(ctypes.c_uint64.from_address(memory + _ACCESS_AT).value)
    array = ctypes.c_uint64.from_address(arrays).value
    # One row at a time is allowed for every array; a row beyond the array would end this thread.
    address = ctypes.addressof(decoder)
    first, last = access(address, array, 0, 1, 0), access(address, array, rows - 1, 1, 0)
    if last - first != _POINTER.size * (rows - 1):
        return None
    begin, end = (ctypes.c_uint64.from_address(row).value for row in (first, last))
    pitch = (end - begin) // (rows - 1) if rows > 1 else columns * _BLOCK_BYTES
    is_in_range = columns * _BLOCK_BYTES <= pitch <= (columns + _MOST_PADDING) * _BLOCK_BYTES
    if pitch % _BLOCK_BYTES or not is_in_range or begin + (rows - 1) * pitch != end:
        return None
    steps = ctypes.string_at(quantiser, 2 * BLOCK_PX * BLOCK_PX)
    return lowest_frequencies(_view(begin, rows * pitch, _READ_ONLY), pitch, steps, height, width)


@functools.cache
def _access(address: int) -> Callable[..., int]:
    return _ACCESS(address)
