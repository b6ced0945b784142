"""Passes for secure multi-party computation: from a graph to a program on shares."""
