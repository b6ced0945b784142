"""Randomness of shares and masks: a secret that two processes agree on, expanded by ChaCha20.

The library's own generator is a Mersenne Twister with a 64-bit seed, whose state can be computed from its
outputs; nothing here uses it. Each pair of processes agrees on a key by X25519 from the operating system's
randomness, so that whoever listens on the network learns no mask; keys are derived by HKDF for one run of one
program. Every tensor has a nonce of its own, so that both sides draw the same without keeping step.
"""

from __future__ import annotations

import secrets

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pi_compiler.errors import ExecutionError, InternalError
from pi_compiler.ir.two_party import ELEMENT_BYTES, words

KEY_BYTES = 32
SETUP_RUN = 2**32 - 1
"""The run number of what is drawn once, for all runs."""

_ZEROS = bytes(1 << 20)


class Stream:
    """A source of uniform ring elements and bits that two processes share.

    Args:
        key: the shared secret, 32 bytes.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<Stream>"

    def ring(self, run: int, place: int, part: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Uniform elements of the ring, int64.

        Args:
            run: number of the run, or ``SETUP_RUN``.
            place: number of the instruction or constant that the tensor is for.
            part: which tensor of that instruction.
            shape: its shape.
        """
        count = int(np.prod(shape, dtype=np.int64))
        raw = self._bytes(run, place, part, count * ELEMENT_BYTES)
        return torch.from_numpy(np.frombuffer(raw, np.int64)).reshape(shape)

    def bits(self, run: int, place: int, part: int, size: int) -> torch.Tensor:
        """Uniform bits, packed into words; those beyond ``size`` in the last word are zero."""
        found = self.ring(run, place, part, (words(size),))
        spare = words(size) * 64 - size
        if spare:
            found[-1] &= (1 << (64 - spare)) - 1
        return found

    def _bytes(self, run: int, place: int, part: int, size: int) -> bytearray:
        # The first four bytes of ChaCha20's nonce are its block counter: 256 GiB until it runs into the next tensor.
        if size >= 1 << 38:
            raise InternalError(f"a tensor of {size} random bytes is more than one nonce serves")
        nonce = b"".join(n.to_bytes(4, "little") for n in (0, run, place, part))
        cipher = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()
        out = bytearray(size)
        view = memoryview(out)
        for start in range(0, size, len(_ZEROS)):
            piece = min(len(_ZEROS), size - start)
            cipher.update_into(memoryview(_ZEROS)[:piece], view[start : start + piece])
        return out


class Agreement:
    """One side of a key agreement; fresh for every process."""

    __slots__ = ("_private",)

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """What the other side is told."""
        return self._private.public_key().public_bytes_raw()

    def stream(self, other: bytes, context: str) -> Stream:
        """The stream shared with the owner of a public key.

        Args:
            other: that public key.
            context: what it is for, the same text on both sides.

        Raises:
            ExecutionError: the public key is malformed.
        """
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError as error:
            raise ExecutionError("the other party's public key is malformed") from error
        return Stream(HKDF(SHA256(), KEY_BYTES, None, context.encode()).derive(secret))


def fresh_stream() -> Stream:
    """A stream that nobody else knows, from the operating system's randomness."""
    return Stream(secrets.token_bytes(KEY_BYTES))
