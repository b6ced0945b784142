"""Slot algorithms, written once over an abstract value."""
