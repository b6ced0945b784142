"""Keys that outlast a process: a folder with the owner's secret key and what the evaluating side gets.

    FOLDER/secret.key     only its owner may read it
    FOLDER/evaluation/    evaluation keys: public material, all that an evaluating side needs

The folder appears whole: it is made beside its place and moved there. Keys are made once for a program; another
program may use them if it needs no others. Whoever reads the folder can decrypt everything under these keys.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from pi_compiler.errors import ParameterError
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.runtime.backend import Backend, Client, EvalKeys, MapsKeys, require

SECRET, EVALUATION = "secret.key", "evaluation"


def open_keys(
    backend: Backend, program: Program, params: Params, folder: Path, *, insecure: bool = False
) -> tuple[Client, EvalKeys]:
    """Both halves of the keys in a folder, which are made where there is no such folder.

    Args:
        backend: whose keys.
        program: what they have to serve.
        params: its parameters.
        folder: where they are, or will be.
        insecure: accept parameters below 128 bits.

    Raises:
        ParameterError: the folder holds something else, or cannot be made.
        PiError: the keys cannot be written.
        ArtifactError: the keys are damaged.
        ExecutionError: they are for another backend, other parameters, or fewer rotations.
    """
    levels, relinearize = program.rotation_levels(), bool(program.count(Opcode.RELINEARIZE))
    if not (folder / SECRET).exists():
        _make(backend.keygen(params, levels, relinearize=relinearize, insecure=insecure), folder)
    evaluation = folder / EVALUATION
    if isinstance(backend, MapsKeys):
        keys = backend.map_keys(params, evaluation, insecure=insecure)
    else:
        keys = backend.load_keys(params, evaluation, insecure=insecure)
    require(backend, program, params, keys)
    client = backend.load_client(params, folder / SECRET, levels, relinearize=relinearize, insecure=insecure)
    return client, keys


def check_folder(folder: Path) -> None:
    """Check that a folder holds keys, or that they can be put there.

    Raises:
        ParameterError: neither.
    """
    if (folder / SECRET).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"{str(folder)!r} holds something else than keys", hint="the name of a new folder")
    if not folder.absolute().parent.is_dir():
        raise ParameterError(f"cannot make {str(folder)!r}: there is no folder {str(folder.absolute().parent)!r}")


def _make(client: Client, folder: Path) -> None:
    check_folder(folder)
    staging = folder.absolute().with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        staging.mkdir(mode=0o700)
        client.save(staging / SECRET)
        client.save_eval_keys(staging / EVALUATION)
        staging.rename(folder)
    except OSError as error:
        raise ParameterError(f"cannot write {str(folder)!r}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)
