"""Passes: functions from Compilation to Compilation, one file each."""
