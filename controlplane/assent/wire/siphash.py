"""SipHash-2-4 (Aumasson and Bernstein, 2012) with 64-bit and 128-bit outputs.

The control plane tags its own frames with it, and the C that the kernel runs is tested against it.
A header's source and destination are its first 32 bytes and do not change within a session, so the
dataplane stores the state after those four words instead of the key: `SipState` makes that state,
and `tag_from_state` goes on from it.
"""

from __future__ import annotations

from typing import Final

from assent.errors import InvalidArgument

KEY_LEN: Final = 16

_MASK: Final = (1 << 64) - 1

Words = tuple[int, int, int, int]


def _rounds(words: Words, count: int) -> Words:
    v0, v1, v2, v3 = words
    for _ in range(count):
        v0 = (v0 + v1) & _MASK
        v1 = (v1 << 13 | v1 >> 51) & _MASK ^ v0
        v0 = (v0 << 32 | v0 >> 32) & _MASK
        v2 = (v2 + v3) & _MASK
        v3 = (v3 << 16 | v3 >> 48) & _MASK ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = (v3 << 21 | v3 >> 43) & _MASK ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = (v1 << 17 | v1 >> 47) & _MASK ^ v2
        v2 = (v2 << 32 | v2 >> 32) & _MASK
    return v0, v1, v2, v3


def _start(key: bytes) -> Words:
    if len(key) != KEY_LEN:
        raise InvalidArgument("key", f"needs {KEY_LEN} bytes, not {len(key)}")
    k0 = int.from_bytes(key[:8], "little")
    k1 = int.from_bytes(key[8:], "little")
    return (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )


def _absorb(words: Words, word: int) -> Words:
    v0, v1, v2, v3 = words
    v0, v1, v2, v3 = _rounds((v0, v1, v2, v3 ^ word), 2)
    return v0 ^ word, v1, v2, v3


def _absorb_rest(words: Words, rest: bytes, total_len: int) -> Words:
    """Takes in `rest`, and the last word: what is left of it, and the length modulo 256 on top."""
    whole = len(rest) & ~7
    for offset in range(0, whole, 8):
        words = _absorb(words, int.from_bytes(rest[offset : offset + 8], "little"))
    last = int.from_bytes(rest[whole:], "little") | (total_len & 0xFF) << 56
    return _absorb(words, last)


def _fold(words: Words) -> int:
    v0, v1, v2, v3 = words
    return v0 ^ v1 ^ v2 ^ v3


def siphash24(key: bytes, message: bytes) -> int:
    """The 64-bit SipHash-2-4 of `message`, as an integer; on the wire it is little-endian.

    Args:
        key: 16 bytes.
        message: Any number of bytes.

    Raises:
        InvalidArgument: The key does not have 16 bytes.
    """
    return tag_from_state(_start(key), message, len(message))


def siphash24_128(key: bytes, message: bytes) -> bytes:
    """The 128-bit SipHash-2-4 of `message`, 16 bytes in the algorithm's own order.

    Args:
        key: 16 bytes.
        message: Any number of bytes.

    Raises:
        InvalidArgument: The key does not have 16 bytes.
    """
    v0, v1, v2, v3 = _start(key)
    v0, v1, v2, v3 = _absorb_rest((v0, v1 ^ 0xEE, v2, v3), message, len(message))
    v0, v1, v2, v3 = _rounds((v0, v1, v2 ^ 0xEE, v3), 4)
    first = _fold((v0, v1, v2, v3))
    second = _fold(_rounds((v0, v1 ^ 0xDD, v2, v3), 4))
    return first.to_bytes(8, "little") + second.to_bytes(8, "little")


class SipState:
    """The state of a 64-bit SipHash-2-4 after a number of whole 8-byte words.

    A state is worth as much as its key, and is kept out of reprs for that.

    Raises:
        InvalidArgument: The key does not have 16 bytes.
    """

    __slots__ = ("_words",)

    def __init__(self, key: bytes) -> None:
        self._words = _start(key)

    def absorb(self, word: bytes) -> None:
        """Takes in one word of the message.

        Raises:
            InvalidArgument: `word` does not have 8 bytes.
        """
        if len(word) != 8:
            raise InvalidArgument("word", f"needs 8 bytes, not {len(word)}")
        self._words = _absorb(self._words, int.from_bytes(word, "little"))

    @property
    def words(self) -> Words:
        """v0, v1, v2 and v3, each 64 bits, as a session entry of the dataplane holds them."""
        return self._words


def tag_from_state(state: Words, rest: bytes, total_len: int) -> int:
    """Finishes a 64-bit SipHash-2-4 from a stored state.

    Args:
        state: `SipState.words` after the first `total_len - len(rest)` bytes.
        rest: The remaining bytes of the message.
        total_len: The length of the whole message in bytes.

    Returns:
        The hash as an integer below 2**64.

    Raises:
        InvalidArgument: What the state has taken in is not a whole number of words.
    """
    absorbed = total_len - len(rest)
    if absorbed < 0 or absorbed % 8:
        raise InvalidArgument("total_len", "is not whole words more than the rest")
    v0, v1, v2, v3 = _absorb_rest(state, rest, total_len)
    return _fold(_rounds((v0, v1, v2 ^ 0xFF, v3), 4))
