#!/usr/bin/env python3
"""Tests of rescue.py: `python3 test_rescue.py`. A tiny writer, made from docs/format.md as well, builds a zone folder.

The leaf table holds BLAKE3 only where the `blake3` package is installed (rescue.py needs none: it compares the leaf
table with the raw id and lets GCM speak for the segments); elsewhere SHA-256 stands in for it.
"""
import base64, contextlib, hashlib, io, json, os, random, shutil, struct, tarfile, tempfile, unittest

import zstandard
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import rescue

try:
    from blake3 import blake3
except ImportError:
    blake3 = hashlib.sha256

SEG = 1 << 20
WORDS = " ".join("abandon ability able about above absent absorb abstract absurd abuse access accident "
                 "account accuse achieve acid acoustic acquire across act action actor actress actual".split())
PASSPHRASE = "correct horse battery staple"
RSA_KEY = rsa.generate_private_key(65537, 3072)
SIGN, NODE = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
ZONE, ALIAS, TARGET, SOURCE, CHECK1, CHECK2 = (os.urandom(16).hex() for _ in range(6))
T0 = 1_700_000_000_123
NS = 123456789


def b64(data):
    return base64.b64encode(data).decode()


def public(key):
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


SPKI = RSA_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
PKCS8 = RSA_KEY.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption())
PRINT = hashlib.sha256(SPKI).digest()


def hkdf(key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt or None, info).derive(key)


def certificate(sign=SIGN):
    body = struct.pack("<HHI", 1, 0, 1) + b"n" * 16 + public(NODE) + public(sign)
    return body + sign.sign(b"zoneward/1 node certificate" + body)


def owner_key(m_kib=16384, **changes):
    bundle = json.dumps({"rsa_pkcs8": b64(PKCS8), "sign_seed": b64(SIGN.private_bytes_raw()), "previous": []}).encode()
    salt, nonce = os.urandom(32), os.urandom(12)
    key = hkdf(WORDS.encode(), salt, b"zoneward/1 owner words")
    file = {"format": 1, "fingerprint": PRINT.hex(), "rsa_public": b64(SPKI), "sign_public": b64(public(SIGN)),
            "words": {"salt": b64(salt), "nonce": b64(nonce),
                      "sealed": b64(AESGCM(key).encrypt(nonce, bundle, PRINT + b"words"))}}
    salt = os.urandom(16)
    key = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=16384).derive(PASSPHRASE.encode())
    file["passphrase"] = {"kdf": "argon2id", "m_kib": m_kib, "t": 1, "p": 1, "salt": b64(salt), "nonce": b64(nonce),
                          "sealed": b64(AESGCM(key).encrypt(nonce, bundle, PRINT + b"passphrase"))}
    return json.dumps({**file, **changes})


def padme(length):
    e = length.bit_length() - 1
    step = 1 << (e - e.bit_length())
    return -(-length // step) * step


class Tar:
    """A raw sector in the making."""

    def __init__(self):
        self.id, self.buffer, self.catalogs, self.system = os.urandom(16).hex(), io.BytesIO(), [], None

    def add(self, name, data):
        """[offset, length] of the content in the tar stream."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.buffer.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        place = [self.buffer.tell(), len(data)]
        self.buffer.write(data + bytes(-len(data) % 512))
        return place

    def part(self, layer, rows, part=0):
        first = {"catalog": 1, "source": SOURCE, "layer": layer, "part": part}
        text = "".join(json.dumps(row) + "\n" for row in [first] + rows).encode()
        offset, length = self.add(".zoneward/catalog/%d.jsonl" % part, text)
        self.catalogs.append({"source": SOURCE, "layer": layer, "part": part, "offset": offset, "length": length,
                              "entries": len(rows)})
        return {"sector": self.id, "offset": offset, "length": length}

    def raw(self, frame=300_000):
        index = {"format": 1, "sector": self.id, "catalogs": self.catalogs}
        if self.system:
            index["system"] = self.system
        self.index = self.add(".zoneward/index.json", json.dumps(index).encode())
        tar = self.buffer.getvalue() + bytes(1024)
        cuts = [tar[i:i + frame] for i in range(0, len(tar), frame)]
        frames = [zstandard.ZstdCompressor().compress(c) for c in cuts]
        entries = [(len(f), len(c)) for f, c in zip(frames, cuts)]
        table_len = 8 + 8 * (len(frames) + 1) + 9
        short = sum(map(len, frames)) + 8 + table_len
        pad = padme(short) - short
        frames.append(struct.pack("<II", 0x184D2A5D, pad) + bytes(pad))
        table = b"".join(struct.pack("<II", *e) for e in entries + [(8 + pad, 0)])
        table += struct.pack("<IBI", len(entries) + 1, 0, 0x8F92EAB1)
        raw = b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table)) + table
        self.tar_len, self.seek_table = len(tar), [len(raw) - table_len, table_len]
        return raw


class Zone:
    """Writes zones/<alias>/ below a folder."""

    def __init__(self, root):
        self.root, self.dir = root, os.path.join(root, "zones", ALIAS)
        os.makedirs(os.path.join(self.dir, "sectors"))
        self.save("owner-key.json", owner_key())
        self.copies, self.layers, self.checkpoints, self.time = [], [], [], T0

    def save(self, name, text):
        with open(os.path.join(self.dir, name), "w") as file:
            file.write(text)

    def file(self, copy):
        return os.path.join(self.dir, "sectors", copy[:2], copy + ".zws")

    def seal(self, tar, checkpoint, sign=SIGN, frame=300_000, odd=(), **trailer_changes):
        """Writes a sector; `odd` names what shall be wrong in it though the node signs and seals it so."""
        raw = tar.raw(frame)
        copy, dek = os.urandom(16).hex(), os.urandom(32)
        core = b"\x89ZWS\r\n\x1a\n" + struct.pack("<HHIB3xI", 1, 1, SEG, 24, 1)
        core += bytes.fromhex(ALIAS) + bytes.fromhex(copy) + PRINT
        label = hashlib.sha256(core).digest()
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)
        head = core + struct.pack("<H2x512s", 384, RSA_KEY.public_key().encrypt(dek, oaep))
        head += hkdf(bytes(32) if "commitment" in odd else dek, b"", b"zoneward/1 commit" + label)
        head += certificate(sign)[:88] + bytes(64) if "certificate" in odd else certificate(sign)
        head += NODE.sign(b"zoneward/1 sector header" + head)
        head += bytes([0, "reserved" in odd]) * ((4096 - len(head)) // 2)
        h = hashlib.sha256(head).digest()
        key = lambda name: AESGCM(hkdf(dek, h, b"zoneward/1 " + name))
        cuts = [raw[i:i + SEG] for i in range(0, len(raw), SEG)]
        out = [head]
        for i, cut in enumerate(cuts):
            out.append(key(b"segments").encrypt(struct.pack(">7xIB", i, i == len(cuts) - 1), cut, h))
        leaves = b"".join(blake3(c).digest() for c in cuts)
        trailer = {"format": 1, "raw_id": hashlib.sha256(leaves).hexdigest(), "raw_len": len(raw),
                   "segments": len(cuts), "sector": tar.id, "zone": ZONE, "checkpoint": checkpoint, "packer": "6e" * 16,
                   "epoch": 1, "tar_len": tar.tar_len, "seek_table": tar.seek_table, "index": tar.index,
                   "system": tar.system is not None, "created_ms": self.time, **trailer_changes}
        text, filler = json.dumps(trailer).encode(), b" " if "trailer" in odd else b"\0"
        out.append(key(b"leaves").encrypt(bytes(12), leaves, h))
        out.append(key(b"trailer").encrypt(bytes(12), 
                                             (struct.pack("<I", len(text)) + text).ljust(4080, filler), h))
        os.makedirs(os.path.dirname(self.file(copy)), exist_ok=True)
        with open(self.file(copy), "wb") as file:
            file.write(b"".join(out))
        self.copies.append({"id": copy, "sector": tar.id, "target": TARGET, "alias": ALIAS, "state": "stored"})
        self.time += 1000
        return copy, h, trailer

    def checkpoint(self, checkpoint, n, chain, source="/home/ann", header_hash=None, **head_changes):
        """A system sector and the head that names it."""
        self.checkpoints.append({"id": checkpoint, "seq": n, "tasks": [{"source": SOURCE, "layers": chain}]})
        state = {"format": 1, "zone": {"id": ZONE, "name": "home"}, "unknown": {"a": [1, {"b": "]}"}]}, "none": [],
                 "checkpoints": self.checkpoints, "sources": [{"id": SOURCE, "path": source, "priority": 15}],
                 "layers": self.layers, "copies": self.copies, "number": 1}
        tar = Tar()
        tar.system = {"state": tar.add(".zoneward/system/state.json", json.dumps(state).encode())}
        copy, h, trailer = self.seal(tar, checkpoint)
        payload = json.dumps({"n": n, "previous": "00" * 32, "sector": tar.id, "raw_id": trailer["raw_id"],
                              "copies": [{"target": TARGET, "copy": copy, "header_hash": header_hash or h.hex()}],
                              "checkpoint": checkpoint, "time_ms": self.time, **head_changes})
        self.save("pointer.json", json.dumps({
            "format": 1, "payload": payload, "certificate": b64(certificate()),
            "signature": b64(NODE.sign(b"zoneward/1 head" + payload.encode()))}))
        return copy


def row(path, kind, **more):
    base = {"p64": b64(path)} if isinstance(path, bytes) else {"p": path}
    if kind == "-":
        return {**base, "t": "-"}
    return {**base, "t": kind, "m": 0o755 if kind == "d" else 0o640, "u": os.getuid(), "g": os.getgid(),
            "mt": [1_600_000_000, NS], "ct": [1_600_000_000, 0], "i": 7, **more}


def extent(k, place):
    return [k, place[0], place[1], "A" * 43]


BIG = random.Random(7).randbytes(2_500_000)
OLD, NEW, CUT = b"old words\n", b"new words\n" * 9, b"edge" * 1000
HOLE = 3_000_000


def sample(root):
    """Two data sectors, two layers: files, a hole, links, a fifo, an odd name, a changed and a removed file."""
    zone, one, two = Zone(root), Tar(), Tar()
    layer1, layer2 = os.urandom(16).hex(), os.urandom(16).hex()
    a, big, gone = (one.add("home/ann/" + n, d) for n, d in (("a.txt", OLD), ("big", BIG), ("gone", b"gone")))
    cut, odd = one.add("home/ann/hole", CUT), one.add("home/ann/odd", b"odd")
    half = [[1, big[0] + i, min(1_000_000, len(BIG) - i), "A" * 43] for i in range(0, len(BIG), 1_000_000)]
    rows = [row("", "d", m=0o750), row("a.txt", "f", s=len(OLD), e=[extent(0, a)]),
            row("big", "f", s=len(BIG), m=0o400, e=half[:1]), {"+": half[1:]},
            row("dir", "d", m=0o500, mt=[-5, 7]), row("dir/fifo", "p"), row("dir/link", "l", l="../a.txt"),
            row("dir-x", "f", s=0), row("gone", "f", s=4, e=[extent(0, gone)]),
            row("hard", "h", l="big", s=len(BIG)),
            row("hole", "f", s=2 * len(CUT) + HOLE + 5, e=[extent(0, cut), [HOLE], extent(0, cut), [5]]),
            row(b"odd\xff", "f", s=3, n=2, x={"user.note": b64(b"hi\0")}, e=[extent(0, odd)])]
    half[:] = [[0] + e[1:] for e in half]
    rows[2]["e"], rows[3]["+"] = half[:1], half[1:]
    part = one.part(layer1, rows[:5])
    zone.layers.append({"id": layer1, "source": SOURCE, "full": True, "parts": [part, one.part(layer1, rows[5:], 1)]})
    data1 = zone.seal(one, CHECK1)[0]
    system1 = zone.checkpoint(CHECK1, 1, [layer1])
    fresh = two.add("home/ann/a.txt", NEW)
    rows = [{"k": 1, "sector": one.id}, row("a.txt", "f", s=len(NEW), e=[extent(0, fresh)]),
            row("both", "f", s=len(NEW) + 3, e=[extent(0, fresh), extent(1, odd)]), row("gone", "-")]
    zone.layers.append({"id": layer2, "source": SOURCE, "full": False, "parts": [two.part(layer2, rows)]})
    data2 = zone.seal(two, CHECK2)[0]
    return zone, (data1, data2, system1, zone.checkpoint(CHECK2, 2, [layer1, layer2]))


GOOD = {b"a.txt": NEW, b"both": NEW + b"odd", b"big": BIG, b"hard": BIG, b"dir-x": b"", b"odd\xff": b"odd",
        b"hole": CUT + bytes(HOLE) + CUT + bytes(5)}


class Rescue(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.outs = 0
        os.environ.pop("ZONEWARD_PASSPHRASE", None)
        os.environ["ZONEWARD_WORDS"] = WORDS
        self.root = os.path.join(self.tmp, "target")
        self.zone, (self.data1, self.data2, self.system1, self.system2) = sample(self.root)

    def run_it(self, *more, write=True, root=None):
        """(exit code, standard error, the parsed JSON); the output folder is self.out."""
        self.outs += 1
        self.out = os.path.join(self.tmp, "out%d" % self.outs)
        where, out, err = (["--to", self.out] if write else []), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = rescue.main(["--target", root or self.root, "--json", *where, *more])
        return code, err.getvalue(), json.loads(out.getvalue())

    def home(self, *name):
        return os.path.join(os.fsencode(self.out), b"home/ann", *name)

    def content(self):
        found = {}
        for where, _, names in os.walk(self.home()):
            for name in names:
                path = os.path.join(where, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, self.home())] = file.read()
        return found

    def flip(self, path, at, bit=1):
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0] ^ bit
            file.seek(at)
            file.write(bytes([byte]))

    def tiny(self, rows, **more):
        """Another zone of one sector whose catalog has these rows; `CUT` lies at `{0}` of it."""
        root = tempfile.mkdtemp(dir=self.tmp)
        zone, tar, layer = Zone(root), Tar(), os.urandom(16).hex()
        place = tar.add("x", CUT)
        for r in rows:
            if r.get("e") == "cut":
                r.update(s=len(CUT), e=[extent(0, place)])
        zone.layers.append({"id": layer, "source": SOURCE, "full": True, "parts": [tar.part(layer, rows)]})
        zone.seal(tar, CHECK1, **more)
        zone.checkpoint(CHECK1, 1, [layer])
        return zone

    # -- what a restore brings back

    def test_everything_comes_back(self):
        code, err, result = self.run_it()
        self.assertEqual((code, result["lost"], result["warnings"]), (0, [], []), err)
        self.assertEqual(self.content(), GOOD)
        self.assertEqual(os.readlink(self.home(b"dir/link")), b"../a.txt")
        self.assertTrue(rescue.stat.S_ISFIFO(os.lstat(self.home(b"dir/fifo")).st_mode))
        self.assertEqual(os.stat(self.home(b"big")).st_ino, os.stat(self.home(b"hard")).st_ino)
        info = os.stat(self.home(b"big"))
        self.assertEqual((info.st_mode & 0o7777, info.st_mtime_ns), (0o400, 1_600_000_000 * 10**9 + NS))
        info = os.stat(self.home(b"dir"))
        self.assertEqual((info.st_mode & 0o7777, info.st_mtime_ns), (0o500, -5 * 10**9 + 7))
        info = os.stat(self.home())
        self.assertEqual((info.st_mode & 0o7777, info.st_mtime_ns), (0o750, 1_600_000_000 * 10**9 + NS))
        self.assertEqual(os.lstat(self.home(b"dir/link")).st_mtime_ns, 1_600_000_000 * 10**9 + NS)
        self.assertLess(os.stat(self.home(b"hole")).st_blocks * 512, HOLE)
        if not result["attributes_unset"]:
            self.assertEqual(os.getxattr(self.home(b"odd\xff"), "user.note"), b"hi\0")

    def test_older_checkpoint_list_source_and_verify(self):
        for asked in ("1", CHECK1):
            code, err, _ = self.run_it("--checkpoint", asked)
            self.assertEqual(code, 0, err)
            self.assertEqual((self.content()[b"a.txt"], self.content()[b"gone"]), (OLD, b"gone"))
            self.assertNotIn(b"both", self.content())
        self.assertEqual(self.run_it("--checkpoint", "9")[0], 1)
        self.assertEqual(self.run_it("--source", "/home/bob")[0], 1)
        self.assertEqual(self.run_it("--source", "/home/ann")[0], 0)
        code, _, result = self.run_it("--list", write=False)
        self.assertEqual((code, [c["seq"] for c in result["checkpoints"]]), (0, [1, 2]))
        code, err, result = self.run_it("--verify-only")
        self.assertEqual((code, os.path.exists(self.out)), (0, False), err)

    def test_output_must_be_empty(self):
        self.run_it()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(rescue.main(["--target", self.root, "--to", self.out]), 1)

    def test_hard_link_before_its_content(self):
        zone = self.tiny([row("", "d"), row("a", "h", l="z", s=len(CUT)), row("b", "h", l="no", s=1),
                          row("z", "f", e="cut")])
        code, _, result = self.run_it(root=zone.root)
        self.assertEqual((code, [e["path"] for e in result["lost"]]), (3, ["home/ann/b"]))
        self.assertEqual(self.content(), {b"a": CUT, b"z": CUT})
        self.assertEqual(os.stat(self.home()).st_mtime_ns, 1_600_000_000 * 10**9 + NS)

    # -- keys

    def test_wrong_words_and_passphrase(self):
        for words in (WORDS.replace("actual", "abandon"), WORDS[:-7], "zoo"):
            os.environ["ZONEWARD_WORDS"] = words
            self.assertEqual(self.run_it()[0], 12)
        del os.environ["ZONEWARD_WORDS"]
        os.environ["ZONEWARD_PASSPHRASE"] = "wrong"
        self.assertEqual(self.run_it()[0], 12)
        os.environ["ZONEWARD_PASSPHRASE"] = PASSPHRASE
        self.assertEqual(self.run_it()[0], 0)
        os.rename(os.path.join(self.zone.dir, "owner-key.json"), os.path.join(self.tmp, "mine.json"))
        self.assertEqual(self.run_it()[0], 1)
        self.assertEqual(self.run_it("--key", os.path.join(self.tmp, "mine.json"))[0], 0)

    def test_words_as_a_person_types_them(self):
        del os.environ["ZONEWARD_WORDS"]
        with open(os.path.join(self.tmp, "words"), "w") as file:
            file.write(WORDS.upper().replace(" ", "\n  ", 3) + "\n")
        self.assertEqual(self.run_it("--words-file", file.name)[0], 0)

    def test_hostile_owner_key(self):
        other = ed25519.Ed25519PrivateKey.generate()
        self.zone.save("owner-key.json", owner_key(sign_public=b64(public(other))))
        self.assertEqual(self.run_it()[0], 5)
        key = rsa.generate_private_key(65537, 3072).public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.zone.save("owner-key.json", owner_key(rsa_public=b64(der)))
        self.assertEqual(self.run_it()[0], 5)
        del os.environ["ZONEWARD_WORDS"]
        os.environ["ZONEWARD_PASSPHRASE"] = PASSPHRASE
        for m_kib in (16383, 1 << 30):
            self.zone.save("owner-key.json", owner_key(m_kib=m_kib))
            self.assertEqual(self.run_it()[0], 5)

    # -- damage

    def test_two_hundred_flips(self):
        rng = random.Random(11)
        for n in range(200):
            copy = rng.choice((self.data1, self.data2, self.system1, self.system2))
            path = self.zone.file(copy)
            size = os.path.getsize(path)
            # a quarter each: header, segments, leaf table and trailer, anywhere
            at = (rng.randrange(4096), rng.randrange(4096, size - 4096), rng.randrange(size - 4200, size),
                  rng.randrange(size))[n % 4]
            bit = 1 << rng.randrange(8)
            self.flip(path, at, bit)
            code, err, _ = self.run_it("--verify-only", write=False)
            self.assertEqual(code, 5, "byte %d of %s was flipped and not noticed\n%s" % (at, path, err))
            if n % 5 == 0:
                code, err, result = self.run_it()
                found = self.content() if os.path.exists(self.out) else {}
                if copy == self.system2:  # then checkpoint 1 is the newest that can be known
                    self.assertEqual((code, found.get(b"a.txt")), (5, OLD), err)
                elif copy != self.system1:
                    lost = {e["path"] for e in result["lost"]}
                    for name, data in GOOD.items():
                        if name in found and not (name == b"a.txt" and copy == self.data2):
                            self.assertEqual(found[name], data, err)
                        else:
                            self.assertEqual(code, 5, err)
                            self.assertTrue(lost or result["warnings"], err)
            self.flip(path, at, bit)
        self.assertEqual(self.run_it("--verify-only", write=False)[0], 0)

    def test_truncated(self):
        path = self.zone.file(self.data1)
        with open(path, "rb") as file:
            whole = file.read()
        for keep in (0, 100, 4096, 8208, 9000, SEG, len(whole) - 1, len(whole) - SEG - 64):
            with open(path, "wb") as file:
                file.write(whole[:keep])
            self.assertEqual(self.run_it()[0], 5)
            self.assertNotIn(b"big", self.content())
        with open(path, "wb") as file:
            file.write(whole + b"x")
        self.assertEqual(self.run_it()[0], 5)

    def test_swapped(self):
        one, two = self.zone.file(self.data1), self.zone.file(self.data2)
        os.rename(one, one + ".tmp")
        os.rename(two, one)
        os.rename(one + ".tmp", two)
        with self.subTest("each alone says what it is"):
            owner = rescue.Owner(os.path.join(self.zone.dir, "owner-key.json"), WORDS, None)
            sectors = rescue.Sectors(self.zone.dir, owner)
            wanted = self.zone.copies[0]["sector"]
            sectors.zone, sectors.copies, sectors.found = ZONE, {wanted: [self.data1]}, {}
            with self.assertRaisesRegex(rescue.Bad, "holds sector"):
                sectors.piece(wanted, 0, 10)
        # the scan of the folder still finds both by what their trailers say
        self.assertEqual(self.run_it()[0], 0)
        self.assertEqual(self.content(), GOOD)

    def test_swapped_segments(self):
        path = self.zone.file(self.data1)
        with open(path, "r+b") as file:
            file.seek(4096)
            first, second = file.read(SEG + 16), file.read(SEG + 16)
            file.seek(4096)
            file.write(second + first)
        code, err, _ = self.run_it()
        self.assertEqual(code, 5, err)

    def test_lost_sector_and_second_copy(self):
        path = self.zone.file(self.data2)
        os.rename(path, path + ".away")
        code, err, result = self.run_it()
        self.assertEqual((code, self.content()[b"big"]), (3, BIG), err)
        os.rename(path + ".away", path)
        other = "00" + self.data2[2:]  # the same sector under a name that no copy has
        os.makedirs(os.path.dirname(self.zone.file(other)), exist_ok=True)
        shutil.copy(path, self.zone.file(other))
        self.flip(path, 5000)
        code, err, _ = self.run_it()
        self.assertEqual(self.content(), GOOD, err)

    # -- the head

    def test_without_pointer(self):
        os.unlink(os.path.join(self.zone.dir, "pointer.json"))
        code, err, _ = self.run_it()
        self.assertEqual(code, 0)
        self.assertIn("LOOKING THROUGH ALL SECTORS", err)
        self.assertEqual(self.content(), GOOD)

    def test_forged_pointer(self):
        path = os.path.join(self.zone.dir, "pointer.json")
        with open(path) as file:
            good = json.load(file)
        stranger = ed25519.Ed25519PrivateKey.generate()
        for change in ({"payload": good["payload"].replace('"n": 2', '"n": 3')}, {"signature": b64(bytes(64))},
                       {"certificate": b64(certificate(stranger))}, {"format": 2}, {"payload": 5}):
            self.zone.save("pointer.json", json.dumps({**good, **change}))
            code, err, _ = self.run_it()
            self.assertEqual((code, self.content()), (5, GOOD), err)
        for text in ("", "[]", "{" * 100_000, "x" * (2 << 20)):
            self.zone.save("pointer.json", text)
            self.assertEqual(self.run_it("--list", write=False)[0], 5)

    def test_head_of_several_voters(self):
        """The owner vouched for voter a; a handed over to a, b, c; two of those sign."""
        path = os.path.join(self.zone.dir, "pointer.json")
        with open(path) as file:
            payload = json.loads(json.load(file)["payload"])
        keys = {c: ed25519.Ed25519PrivateKey.generate() for c in "abcd"}
        ids = {c: (c * 16).encode().hex() for c in "abcd"}

        def signed(said, by):
            text = json.dumps(said)
            cards = []
            for c in by:
                body = struct.pack("<HHI", 1, 0, 1) + bytes.fromhex(ids[c]) + public(keys[c]) + public(SIGN)
                card = body + SIGN.sign(b"zoneward/1 node certificate" + body)
                cards.append({"certificate": b64(card), "signature": b64(keys[c].sign(b"zoneward/1 head" + text.encode()))})
            return {"payload": text, "signatures": cards}

        def pointer(by, handed="ab", owner=SIGN, voters="abc", n=2, generation=7):
            word = b"zoneward/1 recover quorum" + bytes.fromhex(ZONE) + (7).to_bytes(4, "little") + bytes.fromhex(ids["a"])
            said = {"generation": generation, "voters": [ids[c] for c in voters]}
            first = {**payload, "n": 1, "generation": 7, "voters": [ids[c] for c in "abc"]}
            return {"format": 2, **signed({**payload, **said, "n": n}, by),
                    "vouched": {"zone": ZONE, "generation": 7, "node": ids["a"], "signature": b64(owner.sign(word)),
                                "handovers": [signed(first, handed)]}}

        self.zone.save("pointer.json", json.dumps(pointer("bc")))
        code, err, _ = self.run_it()
        self.assertEqual((code, self.content()), (0, GOOD), err)
        self.assertIn("2 signature(s) good", err)
        stranger = ed25519.Ed25519PrivateKey.generate()
        odd = pointer("bc")
        odd["vouched"]["handovers"] = [5]
        many = pointer("bc")
        many["vouched"]["generation"] = 1 << 70
        for bad in (pointer("b"), pointer("bb"), pointer("bd"), pointer("bc", handed="bc"), pointer("bc", handed="a"),
                    pointer("bc", owner=stranger), pointer("bcd", voters="bcd"), pointer("bc", n=0),
                    pointer("bc", generation=8), odd, many):
            self.zone.save("pointer.json", json.dumps(bad))
            code, err, _ = self.run_it()
            self.assertEqual((code, self.content()), (5, GOOD), err)
        # Without the owner's word one signature is taken, and told.
        self.zone.save("pointer.json", json.dumps({**pointer("c"), "vouched": None}))
        code, err, _ = self.run_it()
        self.assertEqual((code, self.content()), (0, GOOD), err)
        self.assertIn("nothing shows that most voters agreed", err)

    def test_stranger_cannot_add_a_sector(self):
        """Anybody who knows the owner's public key can seal; only a node that the owner certified may speak."""
        stranger = ed25519.Ed25519PrivateKey.generate()
        os.unlink(os.path.join(self.zone.dir, "pointer.json"))
        tar = Tar()
        tar.system = {"state": tar.add(".zoneward/system/state.json", b"{}")}
        self.zone.time += 10**9
        self.zone.seal(tar, CHECK2, sign=stranger)
        code, err, _ = self.run_it()
        self.assertEqual((code, self.content()), (5, GOOD), err)
        self.assertIn("another owner", err)

    # -- hostile content, rightly sealed

    def test_hostile_paths(self):
        trap = os.path.join(self.tmp, "trap")
        os.mkdir(trap)
        for path in ("../x", "..", "a/../../x", "/etc/x", "a//b", "./x", "a/", "x\0y"):
            for kind, more in (("f", {"e": "cut"}), ("d", {}), ("l", {"l": "t"}), ("p", {})):
                zone = self.tiny([row(path, kind, **more)])
                code, err, _ = self.run_it(root=zone.root)
                self.assertEqual((code, os.listdir(self.tmp + "/trap")), (5, []), "%r %s" % (path, err))
                self.assertEqual([name for _, _, files in os.walk(self.out) for name in files], [], path)
        self.assertFalse(os.path.exists(os.path.join(self.tmp, "x")))
        zone = self.tiny([row("", "d"), row("lnk", "l", l=trap), row("lnk/x", "f", e="cut"), row("z", "f", e="cut")])
        code, err, result = self.run_it(root=zone.root)
        self.assertEqual((code, [e["path"] for e in result["lost"]]), (5, ["home/ann/lnk/x"]), err)
        self.assertEqual((os.listdir(trap), self.content()), ([], {b"z": CUT}))
        zone = self.tiny([row("", "d"), row("h", "h", l="../../../x", s=1), row("z", "f", e="cut")])
        self.assertEqual(self.run_it(root=zone.root)[0], 5)

    def test_hostile_source_path(self):
        for path in ("/home/../../x", "//../x", "/a/./b"):
            zone = Zone(tempfile.mkdtemp(dir=self.tmp))
            tar, layer = Tar(), os.urandom(16).hex()
            parts = [tar.part(layer, [row("", "d")])]
            zone.layers.append({"id": layer, "source": SOURCE, "full": True, "parts": parts})
            zone.seal(tar, CHECK1)
            zone.checkpoint(CHECK1, 1, [layer], source=path)
            self.assertEqual(self.run_it(root=zone.root)[0], 5)
            self.assertEqual(os.listdir(self.out), [])

    def test_hostile_entries(self):
        good = row("z", "f", e="cut")
        self.assertEqual(self.run_it(root=self.tiny([row("", "d"), dict(good)]).root)[0], 0)
        for bad in (row("a", "f", s=9, e=[]), row("a", "f", s=-1), row("a", "f", s=True), row("a", "d", m=1 << 20),
                    row("a", "f", s=8, e=[[5, 0, 8, ""]]), row("a", "f", s=8, e=[[0, 1 << 40, 8, ""]]),
                    row("a", "l", l="x" * 70000),
                    row("a", "f", s=1025, e=[[1]] * 1025), row("a", "d", mt=[1]), row("a", "q"), {"+": []},
                    {"p": "a", "t": 3}, {"k": 0, "sector": "00" * 16}, row("a", "d", y="x" * (4 << 20)),
                    row("a", "d", x=[1]), row("zz", "d")):
            zone = self.tiny([row("", "d"), bad, dict(good)])
            code, err, _ = self.run_it(root=zone.root)
            self.assertEqual(code, 5, "%s\n%s" % (json.dumps(bad)[:80], err))

    def test_oversized_frames_and_odd_trailers(self):
        zone = self.tiny([row("z", "f", e="cut"), row("zz", "d", u=0)], frame=9 << 20)
        self.assertEqual(self.run_it(root=zone.root)[0], 0)  # the writer can do it: the sector is small
        bomb = Tar()
        bomb.add("zeros", bytes(9 << 20))
        copy = self.zone.seal(bomb, CHECK2, frame=9 << 20)[0]
        code, err, _ = self.run_it("--verify-only", write=False)
        self.assertEqual(code, 5)
        self.assertIn("a frame is too long", err)
        os.unlink(self.zone.file(copy))
        for change in ({"raw_len": 1}, {"segments": 9}, {"raw_id": "00" * 32}, {"zone": "11" * 16}, {"sector": "x"},
                       {"tar_len": 5}, {"seek_table": [0, 25]}, {"format": 2}):
            tar = Tar()
            tar.add("x", CUT)
            copy = self.zone.seal(tar, CHECK2, **change)[0]
            code, err, _ = self.run_it("--verify-only", write=False)
            self.assertEqual(code, 5, "%r\n%s" % (change, err))
            os.unlink(self.zone.file(copy))

    def test_rightly_signed_but_odd_sectors(self):
        for odd in ("commitment", "certificate", "reserved", "trailer"):
            zone = self.tiny([row("", "d"), row("z", "f", e="cut")], odd=(odd,))
            code, err, _ = self.run_it(root=zone.root)
            self.assertEqual((code, odd in err), (5, True), err)

    def test_sector_of_another_zone(self):
        """Names the right sector, is signed under the same owner, and is still refused."""
        zone = self.tiny([row("", "d"), row("z", "f", e="cut")], zone="11" * 16)
        code, err, _ = self.run_it(root=zone.root)
        self.assertEqual(code, 5, err)
        self.assertIn("another zone", err)

    def test_head_that_names_something_else(self):
        for change in ({"raw_id": "00" * 32}, {"sector": "00" * 16},
                       {"header_hash": "00" * 32},
                       {"copies": [{"target": TARGET, "copy": "../../../x", "header_hash": "00" * 32}]}):
            self.zone.checkpoint(CHECK2, 2, self.zone.checkpoints[1]["tasks"][0]["layers"], **change)
            code, err, _ = self.run_it()
            self.assertEqual((code, self.content()), (5, GOOD), err)
            self.zone.checkpoints.pop()

    def test_state_only_from_system_sectors(self):
        tar = Tar()
        tar.system = {"state": tar.add(".zoneward/system/state.json", b"{}")}
        self.zone.seal(tar, CHECK2, system=False)
        path = os.path.join(self.zone.dir, "sectors", self.zone.copies[-1]["id"][:2], self.zone.copies[-1]["id"])
        sector = rescue.Sector(path + ".zws", rescue.Owner(self.zone.dir + "/owner-key.json", WORDS, None))
        with self.assertRaisesRegex(rescue.Bad, "no system sector"):
            rescue.State(sector, None)

    def test_part_under_another_number_and_long_extent(self):
        zone, tar, layer = Zone(tempfile.mkdtemp(dir=self.tmp)), Tar(), os.urandom(16).hex()
        place = tar.add("x", bytes(9 << 20))
        rows = [row("", "d"), row("z", "f", s=9 << 20, e=[extent(0, place)])]
        parts = [tar.part(layer, [row("", "d")]), tar.part(layer, rows[1:], 1)]
        zone.layers.append({"id": layer, "source": SOURCE, "full": True, "parts": parts})
        zone.seal(tar, CHECK1)
        zone.checkpoint(CHECK1, 1, [layer])
        code, err, _ = self.run_it(root=zone.root)
        self.assertEqual((code, self.content()), (5, {}), err)
        for order in ((1, 0), (0, 0)):
            zone, tar = Zone(tempfile.mkdtemp(dir=self.tmp)), Tar()
            parts = [tar.part(layer, [row("", "d")]), tar.part(layer, [row("y", "f", s=0)], 1)]
            zone.layers.append({"id": layer, "source": SOURCE, "full": True, "parts": [parts[i] for i in order]})
            zone.seal(tar, CHECK1)
            zone.checkpoint(CHECK1, 1, [layer])
            code, err, _ = self.run_it(root=zone.root)
            self.assertEqual((code, "first line" in err), (5, True), err)

    def test_a_full_layer_needs_none_before_it(self):
        layer = os.urandom(16).hex()
        tar = Tar()
        parts = [tar.part(layer, [row("", "d"), row("only", "f", s=0)])]
        self.zone.layers.append({"id": layer, "source": SOURCE, "full": True, "parts": parts})
        self.zone.seal(tar, CHECK2)
        self.zone.checkpoint("ab" * 16, 3, self.zone.checkpoints[1]["tasks"][0]["layers"] + [layer])
        self.assertEqual(self.run_it()[0], 0)
        self.assertEqual(self.content(), {b"only": b""})

    def test_state_in_many_pieces(self):
        value = {"a": [1, {"b": "]}"}, "ü"], "n": 12345, "e": [], "o": {}, "l": [[1, 2], [3]]}
        data = json.dumps(value, ensure_ascii=False, indent=1).encode()
        for step in (1, 2, 3, 7, 1000):
            stream = rescue.JsonStream(data[i:i + step] for i in range(0, len(data), step))
            self.assertEqual(list(stream.items()), [("a", 1), ("a", {"b": "]}"}), ("a", "ü"), ("n", 12345), ("o", {}),
                                                    ("l", [1, 2]), ("l", [3])])
            for cut in range(len(data) - 1):
                with self.assertRaises(rescue.Bad):
                    list(rescue.JsonStream([data[:cut]]).items())


if __name__ == "__main__":
    unittest.main()
