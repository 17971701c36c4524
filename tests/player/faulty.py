"""The loader of faulty_loader.c, in a process that was started with it."""

from __future__ import annotations

import ctypes

loader = ctypes.CDLL("libvulkan.so.1")
