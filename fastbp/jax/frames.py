"""Calls from XLA, through its foreign function interface: the memory of a call as NumPy arrays, without a copy.

The structures are those of ``xla/ffi/api/c_api.h``, a plain C interface that only ever grows at its ends. A handler is a C
function of ctypes' making, so that nothing is compiled against JAX, and the same handlers serve the kernels and the NumPy twin.
XLA calls it on a thread of its own, without the GIL; the handler takes it, and the kernels give it back while they compute.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

__all__ = ["DTYPES", "handler"]

_MAJOR = 0  # of the interface below
_EXECUTE = 3  # a stage
_STRING = 4  # a type of attributes
_METADATA = 1  # an extension: asks for the version that the handler was written for
_INVALID_ARGUMENT, _INTERNAL = 3, 13  # codes of errors

DTYPES: dict[int, np.dtype] = {
    11: np.dtype(np.float32), 12: np.dtype(np.float64), 1: np.dtype(bool),
    2: np.dtype(np.int8), 3: np.dtype(np.int16), 4: np.dtype(np.int32), 5: np.dtype(np.int64),
    6: np.dtype(np.uint8), 7: np.dtype(np.uint16), 8: np.dtype(np.uint32), 9: np.dtype(np.uint64),
}  # fmt: skip


class _Head(ctypes.Structure):
    """What every structure begins with."""

    _fields_ = [("struct_size", c_size_t), ("extension", c_void_p)]


class _Buffer(_Head):
    _fields_ = [("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64))]


class _Buffers(_Head):
    """The arguments, or the results."""

    _fields_ = [("size", c_int64), ("types", POINTER(c_int)), ("items", POINTER(POINTER(_Buffer)))]


class _Span(ctypes.Structure):
    _fields_ = [("start", c_void_p), ("length", c_size_t)]


class _Attributes(_Head):
    _fields_ = [
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("names", c_void_p),
        ("items", POINTER(POINTER(_Span))),
    ]


class _Version(_Head):
    _fields_ = [("major", c_int), ("minor", c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    ]


class _Error(_Head):
    _fields_ = [("message", c_char_p), ("code", c_int)]


class _Api(_Head):
    _fields_ = [
        ("version", _Version),
        ("internal", c_void_p),
        ("error_create", ctypes.CFUNCTYPE(c_void_p, POINTER(_Error))),
    ]


class _Frame(_Head):
    _fields_ = [
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


_HANDLER = ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))
_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_memory.argtypes, _memory.restype = [c_void_p, ctypes.c_ssize_t, c_int], ctypes.py_object
_READ, _WRITE = 0x100, 0x200  # of PyMemoryView_FromMemory
_LARGE_PAGE, _ADVICE = 2**21, getattr(mmap, "MADV_HUGEPAGE", None)  # Linux alone has it
_advise = None if _ADVICE is None else ctypes.CDLL(None).madvise

Work = Callable[[bytes, list[np.ndarray], list[np.ndarray]], None]


def handler(work: Work) -> Callable[..., int | None]:
    """A handler for :func:`jax.ffi.register_ffi_target`, to be kept alive.

    It calls ``work(attribute, arguments, results)`` with the one attribute of a call, a text, and with arrays that are XLA's
    own memory: arguments to be read, results to be written. An exception becomes the error of the computation.
    """

    def handle(pointer: ctypes._Pointer[_Frame]) -> int | None:
        frame = pointer.contents
        try:
            if frame.extension and _Extension.from_address(frame.extension).type == _METADATA:
                _tell_version(frame)
            elif frame.stage == _EXECUTE:
                work(_text(frame.attributes), _arrays(frame.arguments, _READ), _arrays(frame.results, _WRITE))
        except BaseException as failure:
            message = f"{type(failure).__name__}: {failure}".encode()
            code = _INVALID_ARGUMENT if isinstance(failure, (TypeError, ValueError)) else _INTERNAL
            error = _Error(ctypes.sizeof(_Error), None, message, code)
            return int(frame.api.contents.error_create(ctypes.byref(error)))
        return None

    function: Callable[..., int | None] = _HANDLER(handle)
    return function


def _tell_version(frame: _Frame) -> None:
    """XLA refuses handlers of another major version than its own; within one, structures grow at their ends alone."""
    version, told = (
        frame.api.contents.version,
        _Extension.from_address(frame.extension).metadata.contents.version,
    )
    told.major, told.minor = _MAJOR, version.minor


def _text(attributes: _Attributes) -> bytes:
    if attributes.size != 1 or attributes.types[0] != _STRING:
        raise TypeError("attributes: got others than fastbp's own, expected one text")
    text = attributes.items[0].contents
    return ctypes.string_at(text.start, text.length)


def _arrays(buffers: _Buffers, access: int) -> list[np.ndarray]:
    arrays = [_array(buffers.items[i].contents, access) for i in range(buffers.size)]
    for array in arrays:
        if access == _WRITE and array.nbytes >= 2 * _LARGE_PAGE:
            _ask_for_large_pages(array.ctypes.data, array.nbytes)
    return arrays


def _ask_for_large_pages(start: int, size: int) -> None:
    """As src_c/memory/pages.h does: XLA's new memory has pages of 4 kB, whose first touch takes longer than the kernel."""
    if _advise is not None:
        first, end = -(-start // _LARGE_PAGE) * _LARGE_PAGE, (start + size) // _LARGE_PAGE * _LARGE_PAGE
        _advise(c_void_p(first), c_size_t(end - first), _ADVICE)  # which may be refused


def _array(buffer: _Buffer, access: int) -> np.ndarray:
    dtype, shape = DTYPES[buffer.dtype], tuple(buffer.dims[: buffer.rank])
    size = dtype.itemsize
    for length in shape:
        size *= length
    return np.ndarray(shape, dtype, _memory(buffer.data, size, access)) if size else np.empty(shape, dtype)
