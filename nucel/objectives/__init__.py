"""What is learned: masking, and the losses of the ELECTRA pair and of its control."""

from __future__ import annotations
