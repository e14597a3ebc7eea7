#!/usr/bin/env python3
"""Makes tls13.txt, record.txt and noise.txt, which the tests in ../vectors.rs replay.

A second implementation of sections 5 to 8 of docs/protocol.md, written from that text and from the RFCs, which shares
no code with the first. Needs `cryptography` and `kyber-py`; give the folder to write to.
"""

import hashlib
import hmac
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768


def extract(salt, ikm):
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def expand(prk, info, length, hash_name="sha256"):
    out, block, count = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([count]), hash_name).digest()
        out, count = out + block, count + 1
    return out[:length]


def pattern(name, length):
    """Bytes that look random and are the same each time."""
    return expand(hashlib.sha256(name.encode()).digest(), b"pattern", length)


def nonce(iv, number):
    return bytes(a ^ b for a, b in zip(iv, number.to_bytes(12, "big")))


def seal_record(aead, iv, number, plain, clear=b""):
    header = b"\x17\x03\x03" + (len(clear) + len(plain) + 16).to_bytes(2, "big")
    return header + clear + aead.encrypt(nonce(iv, number), plain, header + clear)


class Out:
    def __init__(self, about):
        self.lines = ["# " + line for line in about] + ["# Made by make.py."]

    def block(self, name, **fields):
        self.lines += ["", f"[{name}]"]
        for key, value in fields.items():
            self.lines.append(f"{key} = {value.hex() if isinstance(value, bytes) else value}")

    def write(self, path):
        path.write_text("\n".join(self.lines) + "\n")


def label(secret, name, length, hash_name):
    info = length.to_bytes(2, "big") + bytes([6 + len(name)]) + b"tls13 " + name + b"\0"
    return expand(secret, info, length, hash_name)


def tls(folder):
    out = Out(["TLS 1.3 record protection and key update, all three suites (RFC 8446, sections 5.2, 7.2, 7.3)."])
    suites = [
        ("1301", "sha256", 32, 16, AESGCM),
        ("1302", "sha384", 48, 32, AESGCM),
        ("1303", "sha256", 32, 32, ChaCha20Poly1305),
    ]
    for number, hash_name, secret_len, key_len, cipher in suites:
        secret = pattern("tls secret " + number, secret_len)
        for generation in range(3):
            key = label(secret, b"key", key_len, hash_name)
            iv = label(secret, b"iv", 12, hash_name)
            for sequence, inner, length in [(0, 22, 5), (1, 23, 87), (2, 21, 2), (3, 23, 0)]:
                content = pattern(f"tls content {generation} {sequence}", length)
                record = seal_record(cipher(key), iv, sequence, content + bytes([inner]))
                out.block(f"suite {number} generation {generation} sequence {sequence}",
                          suite=number, generation=generation, sequence=sequence, secret=secret,
                          type=inner, content=content, record=record)
            secret = label(secret, b"traffic upd", secret_len, hash_name)
    out.write(folder / "tls13.txt")


def records(folder):
    out = Out(["HTX records and key schedule (docs/protocol.md, sections 5, 6 and 8)."])
    secret = pattern("htx secret", 32)
    for generation in range(3):
        key, iv = expand(secret, b"key", 32), expand(secret, b"iv", 12)
        for wire, cipher in [(1, ChaCha20Poly1305), (2, AESGCM)]:
            for index, inner, length, asked in [
                (0, 23, 9, 26), (1, 21, 2, 19), (7, 22, 48, 465), (2**40 + 5, 23, 300, 317),
                (2**64 - 2, 23, 0, 64),
            ]:
                content = pattern(f"htx content {index}", length)
                plain = (content + bytes([inner])).ljust(asked - 16, b"\0")
                out.block(f"record generation {generation} cipher {wire} index {index}",
                          generation=generation, secret=secret, key=key, iv=iv, cipher=wire, index=index,
                          type=inner, content=content, length=asked, record=seal_record(cipher(key), iv, index, plain))
        secret = expand(secret, b"upd", 32)

    n, k = pattern("proof nonce", 32), pattern("knock key", 32)
    for direction in ["up", "down"]:
        okm = expand(extract(n, k), direction.encode(), 44)
        key, iv = okm[:32], okm[32:]
        content = b"\0\0\x05\0" + bytes(5)
        plain = (content + b"\x17").ljust(700 - 32 - 16, b"\0")
        out.block(f"proof {direction}", direction=direction, knock_key=k, nonce=n, key=key, iv=iv, index=12,
                  content=content, length=700, record=seal_record(ChaCha20Poly1305(key), iv, 12, plain, clear=n))
    out.write(folder / "record.txt")


class Symmetric:
    """Noise's SymmetricState (Noise, section 5.2) with psk."""

    def __init__(self, name, prologue):
        self.h = self.ck = hashlib.sha256(name).digest()
        self.key, self.count = None, 0
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, ikm, outputs):
        prk, out = extract(self.ck, ikm), [b""]
        for number in range(1, outputs + 1):
            out.append(hmac.new(prk, out[-1] + bytes([number]), hashlib.sha256).digest())
        return out[1:]

    def mix_key(self, ikm):
        self.ck, self.key = self.hkdf(ikm, 2)
        self.count = 0

    def mix_psk(self, psk):
        self.ck, middle, self.key = self.hkdf(psk, 3)
        self.mix_hash(middle)
        self.count = 0

    def seal(self, plain):
        count = bytes(4) + self.count.to_bytes(8, "little")
        sealed = ChaCha20Poly1305(self.key).encrypt(count, plain, self.h)
        self.count += 1
        self.mix_hash(sealed)
        return sealed


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def dh(secret, other):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))


def noise(folder):
    out = Out(["A whole inner handshake, both sides' view being one (docs/protocol.md, sections 7 and 8).",
               "Secrets are in the order in which each side draws them."])
    bridge, client = pattern("bridge static", 32), pattern("client static", 32)
    for cipher, early in [(1, b""), (2, pattern("early", 300))]:
        client_e, bridge_e = pattern(f"client e {cipher}", 32), pattern(f"bridge e {cipher}", 32)
        kem_seed, kem_random = pattern(f"kem seed {cipher}", 64), pattern(f"kem m {cipher}", 32)
        salt, token = pattern("salt", 32), b"\x10" + pattern("token", 19)
        knock, proof = pattern("knock record", 90), pattern("proof record", 700)
        prologue = (b"qnet htx v1" + salt + token
                    + hashlib.sha256(knock).digest() + hashlib.sha256(proof).digest())

        state = Symmetric(b"Noise_XKpsk2_25519_ChaChaPoly_SHA256", prologue)
        state.mix_hash(public(bridge))
        ek, dk = ML_KEM_768.key_derive(kem_seed)
        state.mix_hash(public(client_e))
        state.mix_key(public(client_e))
        state.mix_key(dh(client_e, public(bridge)))
        message1 = public(client_e) + state.seal(bytes([cipher]) + ek + early)

        kem_secret, ct = ML_KEM_768._encaps_internal(ek, kem_random)
        assert ML_KEM_768.decaps(dk, ct) == kem_secret
        psk = expand(extract(hashlib.sha256(ek + ct).digest(), kem_secret), b"qnet psk v1", 32)
        state.mix_hash(public(bridge_e))
        state.mix_key(public(bridge_e))
        state.mix_key(dh(bridge_e, public(client_e)))
        state.mix_psk(psk)
        message2 = ct + public(bridge_e) + state.seal(b"")

        sealed_static = state.seal(public(client))
        state.mix_key(dh(client, public(bridge_e)))
        message3 = sealed_static + state.seal(b"")
        up, down = state.hkdf(b"", 2)

        out.block(f"cipher {cipher}", cipher=cipher, bridge_static=bridge, client_static=client,
                  client_draws=client_e + kem_seed, bridge_draws=bridge_e + kem_random,
                  salt=salt, token=token, knock_record=knock, proof_record=proof, prologue=prologue, early=early,
                  message1=message1, message2=message2, message3=message3, handshake_hash=state.h,
                  up_key=expand(up, b"key", 32), up_iv=expand(up, b"iv", 12),
                  down_key=expand(down, b"key", 32), down_iv=expand(down, b"iv", 12),
                  up_next_key=expand(expand(up, b"upd", 32), b"key", 32))
    out.write(folder / "noise.txt")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    tls(target)
    records(target)
    noise(target)
