"""64-bit hashes of byte strings, equal to those that TensorFlow's string operations compute."""

import sys
from collections.abc import Callable, Sequence

import numpy as np

U64 = np.uint64
K0, K1, K2 = U64(0xC3A5C85C97CB3127), U64(0xB492B66FBE98F273), U64(0x9AE16A3B2F90404F)


def farmhash(values: Sequence[bytes]) -> np.ndarray:
    """Returns the 64-bit FarmHash fingerprint of each byte string, as uint64.

    References:
        https://github.com/google/farmhash, `Fingerprint64`.

    Example:
        >>> int(farmhash([b"a"])[0] % U64(3))
        0
    """
    return _by_length(values, _farmhash_of_length)


def siphash(values: Sequence[bytes], key: tuple[int, int]) -> np.ndarray:
    """Returns the SipHash-2-4 of each byte string with a key, as uint64.

    References:
        Aumasson and Bernstein, SipHash: a fast short-input PRF, 2012, https://www.aumasson.jp/siphash/siphash.pdf.

    Example:
        >>> hex(siphash([bytes(range(15))], (0x0706050403020100, 0x0F0E0D0C0B0A0908))[0])
        '0xa129ca6149be45e5'
    """
    return _by_length(values, lambda texts: _siphash_of_length(texts, key))


def _by_length(values: Sequence[bytes], function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Applies a function of byte strings of one length, given as [N, length] uint8, to all byte strings."""
    lengths = np.array([len(value) for value in values], np.int64)
    hashes = np.zeros(len(values), U64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        joined = np.frombuffer(b"".join(values[int(i)] for i in rows), np.uint8)
        hashes[rows] = function(joined.reshape(len(rows), length))
    return hashes


def _word(text: np.ndarray, start: int, size: int = 8) -> np.ndarray:
    """Returns the little-endian number in `size` bytes of each text."""
    part = np.ascontiguousarray(text[:, start : start + size])
    words = part.view(f"<u{size}")[:, 0].astype(U64)
    return words if sys.byteorder == "little" else words.astype(U64)


def _rotate(value: np.ndarray, bits: int) -> np.ndarray:
    """Rotates to the right."""
    return (value >> U64(bits)) | (value << U64(64 - bits))


def _shift_mix(value: np.ndarray) -> np.ndarray:
    return value ^ (value >> U64(47))


def _mix(u: np.ndarray, v: np.ndarray, factor: np.ndarray | np.uint64) -> np.ndarray:
    a = _shift_mix((u ^ v) * factor)
    return _shift_mix((v ^ a) * factor) * factor


def _farmhash_of_length(text: np.ndarray) -> np.ndarray:
    count, length = text.shape
    with np.errstate(over="ignore"):
        if length == 0:
            return np.full(count, K2)
        if length < 4:
            return _farmhash_1_to_3(text)
        factor = K2 + U64(2 * length)
        if length < 8:
            return _mix(U64(length) + (_word(text, 0, 4) << U64(3)), _word(text, length - 4, 4), factor)
        if length <= 16:
            a, b = _word(text, 0) + K2, _word(text, length - 8)
            return _mix(_rotate(b, 37) * factor + a, (_rotate(a, 25) + b) * factor, factor)
        if length <= 32:
            a, b = _word(text, 0) * K1, _word(text, 8)
            c, d = _word(text, length - 8) * factor, _word(text, length - 16) * K2
            return _mix(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + K2, 18) + c, factor)
        return _farmhash_33_to_64(text, factor) if length <= 64 else _farmhash_longer(text)


def _farmhash_1_to_3(text: np.ndarray) -> np.ndarray:
    length = text.shape[1]
    a, b, c = (text[:, i].astype(U64) for i in (0, length >> 1, length - 1))
    return _shift_mix((a + (b << U64(8))) * K2 ^ (U64(length) + (c << U64(2))) * K0) * K2


def _farmhash_33_to_64(text: np.ndarray, factor: np.uint64) -> np.ndarray:
    length = text.shape[1]
    a, b = _word(text, 0) * K2, _word(text, 8)
    c, d = _word(text, length - 8) * factor, _word(text, length - 16) * K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _mix(y, a + _rotate(b + K2, 18) + c, factor)
    e, f = _word(text, 16) * factor, _word(text, 24)
    g, h = (y + _word(text, length - 32)) * factor, (z + _word(text, length - 24)) * factor
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, factor)


Pair = tuple[np.ndarray, np.ndarray]


def _weak_hash(text: np.ndarray, start: int, a: np.ndarray, b: np.ndarray) -> Pair:
    """Mixes 32 bytes of each text into a pair of numbers."""
    w, x, y, z = (_word(text, start + 8 * i) for i in range(4))
    a = a + w
    b = _rotate(b + a + z, 21)
    c = a
    a = a + x + y
    return a + z, b + _rotate(a, 44) + c


def _farmhash_longer(text: np.ndarray) -> np.ndarray:
    count, length = text.shape
    zero = np.zeros(count, U64)
    seed = U64(81)
    x, y = zero + seed, zero + seed * K1 + U64(113)
    z = _shift_mix(y * K2 + U64(113)) * K2
    v, w = (zero, zero), (zero, zero)
    x = x * K2 + _word(text, 0)
    end = (length - 1) // 64 * 64
    for start in range(0, end, 64):
        x, y, z, v, w = _round(text, start, x, y, z, v, w)
    last = end + ((length - 1) & 63) - 63
    factor = K1 + ((z & U64(0xFF)) << U64(1))
    w = (w[0] + U64((length - 1) & 63), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x = _rotate(x + y + v[0] + _word(text, last + 8), 37) * factor
    y = _rotate(y + v[1] + _word(text, last + 48), 42) * factor
    x = x ^ w[1] * U64(9)
    y = y + v[0] * U64(9) + _word(text, last + 40)
    z = _rotate(z + w[0], 33) * factor
    v = _weak_hash(text, last, v[1] * factor, x + w[0])
    w = _weak_hash(text, last + 32, z + w[1], y + _word(text, last + 16))
    z, x = x, z
    return _mix(_mix(v[0], w[0], factor) + _shift_mix(y) * K0 + z, _mix(v[1], w[1], factor) + x, factor)


def _round(
    text: np.ndarray, start: int, x: np.ndarray, y: np.ndarray, z: np.ndarray, v: Pair, w: Pair
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Pair, Pair]:
    """Mixes 64 bytes of each text into the state."""
    x = _rotate(x + y + v[0] + _word(text, start + 8), 37) * K1
    y = _rotate(y + v[1] + _word(text, start + 48), 42) * K1
    x = x ^ w[1]
    y = y + v[0] + _word(text, start + 40)
    z = _rotate(z + w[0], 33) * K1
    v = _weak_hash(text, start, v[1] * K1, x + w[0])
    w = _weak_hash(text, start + 32, z + w[1], y + _word(text, start + 16))
    return z, y, x, v, w


def _siphash_of_length(text: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    count, length = text.shape
    k0, k1 = (U64(part % 2**64) for part in key)
    constants = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [np.full(count, U64(c) ^ k) for c, k in zip(constants, (k0, k1, k0, k1), strict=True)]
    padded = np.zeros((count, length // 8 * 8 + 8), np.uint8)
    padded[:, :length] = text
    padded[:, -1] = length % 256
    with np.errstate(over="ignore"):
        for start in range(0, padded.shape[1], 8):
            word = _word(padded, start)
            v[3] = v[3] ^ word
            _sip_round(v)
            _sip_round(v)
            v[0] = v[0] ^ word
        v[2] = v[2] ^ U64(0xFF)
        for _ in range(4):
            _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _sip_round(v: list[np.ndarray]) -> None:
    v[0] = v[0] + v[1]
    v[1] = _rotate(v[1], 64 - 13) ^ v[0]
    v[0] = _rotate(v[0], 32)
    v[2] = v[2] + v[3]
    v[3] = _rotate(v[3], 64 - 16) ^ v[2]
    v[0] = v[0] + v[3]
    v[3] = _rotate(v[3], 64 - 21) ^ v[0]
    v[2] = v[2] + v[1]
    v[1] = _rotate(v[1], 64 - 17) ^ v[2]
    v[2] = _rotate(v[2], 32)


def combine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns one hash of two, as TensorFlow's `FingerprintCat64`."""
    factor = U64(0xC6A4A7935BD1E995)
    with np.errstate(over="ignore"):
        mixed = (first ^ factor ^ _shift_mix(second * factor) * factor) * factor
        return _shift_mix(_shift_mix(mixed) * factor)
