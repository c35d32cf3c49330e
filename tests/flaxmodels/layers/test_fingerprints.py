"""Hashes of byte strings, by published test vectors."""

import numpy as np

from flaxmodels.layers import fingerprints

# The first vectors of the reference implementation of SipHash-2-4, for the key 00 01 ... 0f and the bytes 00 01 ....
SIPHASH = (0x726FDB47DD0E0E31, 0x74F839C593DC67FD, 0x0D6C8009D9A94F5A, 0x85676696D7FB7E2D)


def test_siphash_of_the_reference():
    values = [bytes(range(n)) for n in range(4)]
    assert fingerprints.siphash(values, (0x0706050403020100, 0x0F0E0D0C0B0A0908)).tolist() == list(SIPHASH)


def test_a_hash_does_not_depend_on_the_other_strings():
    values = [bytes(range(n)) for n in range(0, 200, 9)]
    alone = [fingerprints.farmhash([value])[0] for value in values]
    np.testing.assert_array_equal(fingerprints.farmhash(values), alone)
    assert len(set(alone)) == len(values)
