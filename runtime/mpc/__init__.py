"""Execution of programs under secure multi-party computation; see ``pi_compiler.ir.mpc_program``."""
