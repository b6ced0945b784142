"""Model zoo: definitions, data sets, training recipes and small weights."""

if __name__ != "pi_compiler.models":
    raise ImportError("import pi_compiler.models: this folder is part of pi_compiler")
