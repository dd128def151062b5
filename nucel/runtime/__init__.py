"""How a program runs: errors, command lines, files, devices, ranks."""

from __future__ import annotations
