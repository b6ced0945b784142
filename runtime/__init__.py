"""Execution of compiled programs: backends, keys, traces.

Knows programs, parameters and errors; nothing else of the compiler.
"""

if __name__ != "pi_compiler.runtime":
    raise ImportError("import pi_compiler.runtime: this folder is part of pi_compiler")
