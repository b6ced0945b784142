"""Functions and their polynomial replacements, each with a certificate.

Knows numpy, scipy and mpmath, and nothing of the rest of the project: useful to a numerical
analyst on its own.
"""

if __name__ != "pi_compiler.approx":
    raise ImportError("import pi_compiler.approx: this folder is part of pi_compiler")
