"""Intermediate representations: graph, stages, layout, program, parameters."""
