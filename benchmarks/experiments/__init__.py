"""Experiments that are longer than a test: real genomes, real tasks."""
