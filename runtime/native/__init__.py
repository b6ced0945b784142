"""Our own CKKS evaluator: C++ with AVX-512 or AVX2 where the processor has it, behind the interface of all backends.

Hybrid key switching: ``Params.digit`` primes of the chain form a digit, and the special primes are as
many as such a digit needs: the planner's to choose. A rotation's key is only as large as the highest
level at which it is used. Rotations of one ciphertext share its decomposition (Halevi and Shoup,
"Faster homomorphic linear transformations in HElib", 2018). A plaintext of period p takes a transform
of 2p values and 16p bytes per prime.

``secret`` is the data owner's side and holds everything that touches the secret key; ``evaluator``
never imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pi_compiler.errors import ExecutionError
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode
from pi_compiler.runtime.backend import SHARED_OPCODES, Capabilities, EvalKeys, Rotations
from pi_compiler.runtime.native.evaluator import NativeEvaluator
from pi_compiler.runtime.native.mapped import map_keys
from pi_compiler.runtime.native.material import NativeKeys, NativeRing, core_error, load_keys

if TYPE_CHECKING:
    from pi_compiler.runtime.native.secret import NativeClient, NativePublicKey


class NativeBackend:
    """The native evaluator.

    Args:
        threads: threads that share the limbs of an operation; None: PI_THREADS, or one per core.
        kernels: instruction set, ``"avx512ifma"``, ``"avx2"`` or ``"portable"``; empty: the fastest that can.
    """

    name = "native"
    capabilities = Capabilities(
        SHARED_OPCODES | {Opcode.CONJUGATE},
        max_log_n=16,
        max_prime_bits=60,
        specials=1,
        encrypted=True,
        batch=False,
        any_specials=True,
        fused=True,
        fast_prime_bits=50,
    )

    def __init__(self, threads: int | None = None, kernels: str = "") -> None:
        self._threads, self._kernels = threads, kernels

    def available(self) -> str | None:
        return core_error()

    def _ring(self, params: Params, insecure: bool) -> NativeRing:
        return NativeRing(params, insecure=insecure, threads=self._threads, kernels=self._kernels)

    def keygen(
        self,
        params: Params,
        rotations: Rotations,
        *,
        relinearize: bool = True,
        conjugate: bool = False,
        insecure: bool = False,
    ) -> NativeClient:
        from pi_compiler.runtime.native.secret import NativeClient

        return NativeClient.generate(self._ring(params, insecure), rotations, relinearize, conjugate)

    def load_public_key(self, params: Params, path: Path, *, insecure: bool = False) -> NativePublicKey:
        from pi_compiler.runtime.native.secret import NativePublicKey

        return NativePublicKey.load(self._ring(params, insecure), path)

    def evaluator(self, params: Params, keys: EvalKeys) -> NativeEvaluator:
        if not isinstance(keys, NativeKeys):
            raise ExecutionError(f"the native backend cannot use keys of type {type(keys).__name__}")
        if keys.ring.params != params:
            raise ExecutionError("the keys are for other parameters", hint="keys made for this model")
        return NativeEvaluator(keys)

    def load_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> NativeKeys:
        return load_keys(self._ring(params, insecure), folder)

    def map_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> NativeKeys:
        return map_keys(self._ring(params, insecure), folder)

    def load_client(
        self,
        params: Params,
        path: Path,
        rotations: Rotations = (),
        *,
        relinearize: bool = True,
        insecure: bool = False,
    ) -> NativeClient:
        from pi_compiler.runtime.native.secret import NativeClient

        return NativeClient.load(self._ring(params, insecure), path, rotations, relinearize)
