"""What Thimble draws (src/ops/noise.h), in NumPy: a float in [0, 1) for each (token, channel) of a tensor of a step."""
import numpy as np


def philox(seed: int, stream: int, index: np.ndarray) -> np.ndarray:
    """Philox 4x32-10 of each 64-bit index: (n, 4) uint32."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    index = index.astype(np.uint64)
    c = [index & low, index >> shift, np.full_like(index, stream & 0xFFFFFFFF), np.full_like(index, stream >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> shift) ^ c[1] ^ np.uint64(k0), p1 & low, (p0 >> shift) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=-1).astype(np.uint32)


def drawn(seed: int, step: int, place: int, tokens: int, channels: int, first_token: int = 0) -> np.ndarray:
    """(tokens, channels) float32; steps count from 1."""
    packs = (channels + 3) // 4
    index = (first_token + np.arange(tokens))[:, None] * packs + np.arange(packs)[None, :]
    bits = philox(seed, step << 32 | place, index.reshape(-1)).reshape(tokens, packs * 4)[:, :channels]
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0 ** -24)
