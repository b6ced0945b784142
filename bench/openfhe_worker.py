"""Times OpenFHE's rotations for ``native_ops.py``, in an environment of its own.

    python bench/openfhe_worker.py LOG_N LEVEL LOG_SCALE

prints ``ready``, then reads numbers of calls from standard input, one a line, and answers each with the
seconds of that rotation. Hybrid key switching with OpenFHE's own choice of digits; the number of threads
is OMP_NUM_THREADS.
"""

from __future__ import annotations

import sys
import time

import openfhe

KEYS = 8

log_n, level, log_scale = (int(a) for a in sys.argv[1:4])
parameters = openfhe.CCParamsCKKSRNS()
parameters.SetMultiplicativeDepth(level)
parameters.SetScalingModSize(log_scale)
parameters.SetFirstModSize(log_scale + 4)
parameters.SetRingDim(1 << log_n)
parameters.SetBatchSize(1 << (log_n - 1))
parameters.SetScalingTechnique(openfhe.ScalingTechnique.FIXEDMANUAL)
# Its own choice of special primes may go beyond the table; speed is all that counts here.
parameters.SetSecurityLevel(openfhe.SecurityLevel.HEStd_NotSet)
context = openfhe.GenCryptoContext(parameters)
for feature in ("PKE", "KEYSWITCH", "LEVELEDSHE"):
    context.Enable(getattr(openfhe.PKESchemeFeature, feature))
keys = context.KeyGen()
context.EvalRotateKeyGen(keys.secretKey, list(range(1, KEYS + 1)))
x = [
    context.Encrypt(keys.publicKey, context.MakeCKKSPackedPlaintext([0.1 * (i + j) for j in range(8)]))
    for i in range(4)
]
print("ready", flush=True)
for line in sys.stdin:
    i = int(line)
    start = time.perf_counter()
    result = context.EvalRotate(x[i % 4], 1 + i % KEYS)
    spent = time.perf_counter() - start
    del result
    print(spent, flush=True)
