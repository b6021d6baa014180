#!/usr/bin/env python3
"""Brings files back from a Zoneward target with nothing of Zoneward's: Python 3.9, `cryptography`, `zstandard`.

Written from docs/format.md alone; "§" below are its sections. Order of this file: small checks, the owner key (§7),
one sector (§3, §4), all sectors of a folder, the head and the state (§6, §8), the catalog (§5), writing files, main.
Whatever is read is taken for hostile until a signature or a GCM tag has spoken, and is checked against §9 even then.
Exit codes: 0 done, 1 failed, 2 usage, 3 done but entries are missing, 5 damage found, 12 wrong words or passphrase.
"""
import argparse, array, base64, bisect, codecs, collections, errno, getpass, hashlib, heapq, itertools, json, os, re
import stat, struct, sys, time

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIB = 1 << 20
BLOCK, SEGMENT, MAX_SEGMENTS, MAX_FRAMES, MAX_FRAME = 4096, MIB, 65536, MIB, 8 * MIB
MAX_INDEX, MAX_PART, MAX_LINE, MAX_PATH, MAX_XATTR, MAX_STATE = 16 * MIB, 64 * MIB, 4 * MIB, 65535, MIB, 1024 * MIB
MAX_EXTENT = 8 * MIB
HEADER = struct.Struct("<8sHHIB3sI16s16s32sH2s512s32s152s64s3244s")
DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
ROOT = os.geteuid() == 0


class Bad(Exception):
    """Something read is damaged or hostile; the rest may still be good."""
    code = 5


class Absent(Bad):
    """A sector has no copy in this folder: not damage, another target may hold it."""
    code = 3


class Stop(Exception):
    """Nothing more can be done."""
    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


# ---- small checks -----------------------------------------------------------------------------------------------

def check(good, text):
    if not good:
        raise Bad(text)


def need(record, key, kind):
    """record[key], which must be there and be of that type (True is no number here)."""
    value = record.get(key) if isinstance(record, dict) else None
    check(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), "%r is missing or odd" % key)
    return value


def number(value, low, high):
    check(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, "a number is out of bounds")
    return value


def hex_id(record, key):
    check(re.fullmatch("[0-9a-f]{32}", need(record, key, str)), "%r is no id" % key)
    return record[key]


def span(record, key):
    pair = need(record, key, list)
    check(len(pair) == 2, "%r is no range" % key)
    return number(pair[0], 0, 1 << 62), number(pair[1], 0, 1 << 62)


def unb64(text):
    check(isinstance(text, str), "base64 text is missing")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Bad("base64 text is damaged") from None


def parse(data):
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Bad("JSON is damaged") from None
    check(isinstance(value, dict), "JSON is no object")
    return value


def hkdf(key, salt, info, length=32):
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(key)


def sha256(data):
    return hashlib.sha256(data).digest()


def unseal(key, nonce, sealed, aad, what):
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Bad(what + " is damaged") from None


def verify(public, signature, signed, what):
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise Bad(what + ": the signature is wrong") from None


def small_file(path, limit=MIB):
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    check(len(data) <= limit, path + " is too long")
    return data


def shown(path):
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- the owner key (§7) -----------------------------------------------------------------------------------------

class Owner:
    """The owner's private keys, and every check that ties them to their public halves."""

    def __init__(self, path, words, passphrase):
        try:
            file = parse(small_file(path))
        except OSError as e:
            raise Stop("cannot read %s (%s): give your own copy with --key" % (path, e.strerror))
        check(file.get("format") == 1, path + " has an unknown format: get a newer rescue.py")
        fingerprint = need(file, "fingerprint", str)
        check(re.fullmatch("[0-9a-f]{64}", fingerprint), path + ": the fingerprint is damaged")
        door = "words" if words is not None else "passphrase"
        if door not in file:
            raise Stop("%s cannot be opened by %s: try the other (--words, or --key for a passphrase)" % (path, door))
        box = need(file, door, dict)
        salt, nonce = unb64(box.get("salt")), unb64(box.get("nonce"))
        check(len(nonce) == 12 and len(salt) == (32 if words is not None else 16), path + " is damaged")
        if words is not None:
            words = words.lower().split()
            if len(words) != 24:
                raise Stop("24 words are needed, these are %d: look at the paper again" % len(words), 12)
            key = hkdf(" ".join(words).encode(), salt, b"zoneward/1 owner words")
        else:
            check(box.get("kdf") == "argon2id", path + " has an unknown kdf: get a newer rescue.py")
            m, t, p = (number(box.get(k), low, high) for k, low, high in
                       (("m_kib", 16384, 1048576), ("t", 1, 16), ("p", 1, 8)))
            key = Argon2id(salt=salt, length=32, iterations=t, lanes=p, memory_cost=m).derive(passphrase.encode())
        try:
            aad = bytes.fromhex(fingerprint) + door.encode()
            bundle = parse(AESGCM(key).decrypt(nonce, unb64(box.get("sealed")), aad))
        except InvalidTag:
            raise Stop("the %s did not open %s: look for a typing error, or try another copy of the file"
                       % (door, path), 12)
        self.rsa = {}
        self.add(fingerprint, unb64(bundle.get("rsa_pkcs8")), unb64(file.get("rsa_public")))
        for old in bundle.get("previous", []):
            self.add(need(old, "fingerprint", str), unb64(old.get("rsa_pkcs8")), None)
        seed = unb64(bundle.get("sign_seed"))
        check(len(seed) == 32, "the signing key is damaged")
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        self.sign_public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(*raw)
        check(self.sign_public == unb64(file.get("sign_public")), path + ": public and private signing key differ")

    def add(self, fingerprint, pkcs8, public):
        try:
            key = serialization.load_der_private_key(pkcs8, None)
            numbers = key.public_key().public_numbers()
        except (ValueError, TypeError, AttributeError):
            raise Bad("the private RSA key is damaged") from None
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        spki = key.public_key().public_bytes(*form)
        check(key.key_size in (3072, 4096) and numbers.e == 65537, "the RSA key has an odd size")
        check(sha256(spki).hex() == fingerprint and public in (None, spki), "public and private RSA key differ")
        self.rsa[fingerprint] = key

    def node_key(self, certificate):
        """The public key of a node, after its certificate was traced to the owner's signing key (§2)."""
        check(len(certificate) == 152 and certificate[:4] == b"\x01\0\0\0", "the node certificate is damaged")
        check(certificate[56:88] == self.sign_public, "the node certificate is of another owner")
        verify(self.sign_public, certificate[88:], b"zoneward/1 node certificate" + certificate[:88], "certificate")
        return certificate[24:56]


# ---- one sector (§3, §4) ----------------------------------------------------------------------------------------

class Cache(collections.OrderedDict):
    """Keeps the last `size` values."""
    def __init__(self, size):
        super().__init__()
        self.size = size

    def get_or(self, key, make):
        if key not in self:
            self[key] = make()
            if len(self) > self.size:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]


SEGMENTS, FRAMES = Cache(8), Cache(8)  # of all sectors together: at most 72 MiB
SEEN = set()                           # (file, segment) whose tags were good; filled by --verify-only
VERIFY = [False]


class Sector:
    """A backup sector whose header, leaf table and trailer were good; segments are opened as they are needed."""

    def __init__(self, path, owner):
        self.path, self.table = path, None
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise Absent("the file %s is not here" % path) from None
        except OSError as e:
            raise Bad("%s: %s" % (path, e.strerror)) from None
        try:
            self.open(owner)
        except Bad as e:
            os.close(self.fd)
            raise Bad("%s: %s" % (path, e)) from None

    def bytes_at(self, offset, length):
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as e:
            raise Bad("cannot read: %s" % e.strerror) from None
        check(len(data) == length, "the file is cut short")
        return data

    def open(self, owner):
        info = os.fstat(self.fd)
        check(stat.S_ISREG(info.st_mode), "no plain file")
        head = self.bytes_at(0, BLOCK)
        (magic, version, suite, segment, size_class, zero_a, _epoch, _alias, _copy, fingerprint, wrapped_len, zero_b,
         wrapped, commitment, certificate, signature, zero_c) = HEADER.unpack(head)
        check(magic == b"\x89ZWS\r\n\x1a\n", "no backup sector")
        check(version == 1 and suite == 1, "made by a newer Zoneward: get a newer rescue.py")
        check(segment == SEGMENT and 12 <= size_class <= 36 and wrapped_len in (384, 512), "sizes are odd")
        check(not any(zero_a + zero_b + zero_c + wrapped[wrapped_len:]), "reserved bytes are not zero")
        body = info.st_size - 2 * BLOCK - 16
        self.n = -(-body // (SEGMENT + 48))
        self.raw_len = body - 48 * self.n
        check(1 <= self.n <= MAX_SEGMENTS and (self.n - 1) * SEGMENT < self.raw_len <= self.n * SEGMENT
              and self.raw_len <= 1 << size_class, "the length is wrong: cut short?")
        verify(owner.node_key(certificate), signature, b"zoneward/1 sector header" + head[:788], "header")
        rsa = owner.rsa.get(fingerprint.hex())
        check(rsa and rsa.key_size == wrapped_len * 8, "made for another owner key")
        core, self.hash = sha256(head[:88]), sha256(head)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), core)
        try:
            dek = rsa.decrypt(wrapped[:wrapped_len], oaep)
        except ValueError:
            raise Bad("the wrapped key is damaged") from None
        check(hkdf(dek, b"", b"zoneward/1 commit" + core) == commitment, "the key commitment is wrong")
        key = lambda name: hkdf(dek, self.hash, b"zoneward/1 " + name)
        self.key, leaves_at = AESGCM(key(b"segments")), BLOCK + self.raw_len + 16 * self.n
        leaves = unseal(key(b"leaves"), bytes(12), self.bytes_at(leaves_at, 32 * self.n + 16), self.hash, "leaf table")
        block = self.bytes_at(info.st_size - BLOCK, BLOCK)
        plain = unseal(key(b"trailer"), bytes(12), block, self.hash, "trailer")
        length = struct.unpack_from("<I", plain)[0]
        check(length <= 4076 and not any(plain[4 + length:]), "the trailer is odd")
        self.trailer = t = parse(plain[4:4 + length])
        check(t.get("format") == 1, "trailer of an unknown format: get a newer rescue.py")
        check(t.get("raw_len") == self.raw_len and t.get("segments") == self.n, "trailer and length differ")
        check(t.get("raw_id") == sha256(leaves).hex(), "trailer and leaf table differ")
        self.id, self.zone = hex_id(t, "sector"), hex_id(t, "zone")

    def segment(self, i):
        def make():
            last = i == self.n - 1
            length = self.raw_len - i * SEGMENT if last else SEGMENT
            sealed = self.bytes_at(BLOCK + i * (SEGMENT + 16), length + 16)
            try:
                plain = self.key.decrypt(struct.pack(">7xIB", i, last), sealed, self.hash)
            except InvalidTag:
                raise Bad("%s: segment %d is damaged" % (self.path, i)) from None
            if VERIFY[0]:
                SEEN.add((self.path, i))
            return plain
        return SEGMENTS.get_or((self.path, i), make)

    def raw(self, offset, length):
        check(offset + length <= self.raw_len, "a range lies outside the sector")
        out = bytearray()
        while len(out) < length:
            i, inside = divmod(offset + len(out), SEGMENT)
            out += self.segment(i)[inside:inside + length - len(out)]
        return bytes(out)

    def seek_table(self):
        """Where each zstd frame begins: in the raw sector and in the tar stream (§4)."""
        if self.table is None:
            offset, length = span(self.trailer, "seek_table")
            check(17 <= length <= 17 + 8 * MAX_FRAMES and offset + length == self.raw_len, "the seek table is odd")
            table = self.raw(offset, length)
            count, flags, magic = struct.unpack("<IBI", table[-9:])
            check(table[:8] == struct.pack("<II", 0x184D2A5E, length - 8) and (flags, magic) == (0, 0x8F92EAB1)
                  and length == 17 + 8 * count, "the seek table is odd")
            packed, plain = array.array("Q", [0]), array.array("Q", [0])
            for a, b in struct.iter_unpack("<II", table[8:-9]):
                check(b <= MAX_FRAME and (b == 0 or a <= MAX_FRAME + 65536), "a frame is too long")
                packed.append(packed[-1] + a)
                plain.append(plain[-1] + b)
            check(packed[-1] == offset and plain[-1] == self.trailer.get("tar_len"), "the seek table is odd")
            self.table = packed, plain
        return self.table

    def frame(self, j):
        def make():
            packed, plain = self.seek_table()
            data, size = self.raw(packed[j], packed[j + 1] - packed[j]), plain[j + 1] - plain[j]
            try:
                check(zstandard.get_frame_parameters(data).content_size == size, "a frame states another size")
                out = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
            except zstandard.ZstdError:
                raise Bad("%s: frame %d cannot be decompressed" % (self.path, j)) from None
            check(len(out) == size, "a frame has another size")
            return out
        return FRAMES.get_or((self.path, j), make)

    def piece(self, offset, length):
        """Some bytes of the tar stream from `offset`: at least one, at most `length`, none beyond a frame's end."""
        plain = self.seek_table()[1]
        check(offset + length <= plain[-1], "a range lies outside the tar stream")
        j = bisect.bisect_right(plain, offset) - 1
        inside = offset - plain[j]
        return self.frame(j)[inside:inside + length]

    def tar(self, offset, length, limit):
        check(length <= limit, "a member is too long")
        while length:
            data = self.piece(offset, length)
            yield data
            offset, length = offset + len(data), length - len(data)


class Sectors:
    """All sectors of zones/<alias>/ by their ids."""

    def __init__(self, folder, owner):
        self.folder, self.owner, self.zone = folder, owner, None
        self.copies, self.opened, self.broken, self.found = {}, Cache(32), {}, None

    def path(self, copy):
        return os.path.join(self.folder, "sectors", copy[:2], copy + ".zws")

    def files(self):
        for where, dirs, names in os.walk(os.path.join(self.folder, "sectors")):
            dirs.sort()
            yield from (os.path.join(where, name) for name in sorted(names) if name.endswith(".zws"))

    def open(self, path):
        if path in self.broken:
            raise self.broken[path]
        if path not in self.opened:
            if len(self.opened) >= self.opened.size:
                os.close(self.opened.popitem(last=False)[1].fd)
            try:
                self.opened[path] = Sector(path, self.owner)
            except Bad as e:
                self.broken[path] = e
                raise
        self.opened.move_to_end(path)
        return self.opened[path]

    def scan(self):
        """Opens every sector here once: {path: trailer}. For when the head or the list of copies does not help."""
        if self.found is None:
            self.found = {}
            for path in self.files():
                try:
                    self.found[path] = self.open(path).trailer
                except Bad:
                    pass  # kept in self.broken, which `run` tells at the end
        return self.found

    def piece(self, sector, offset, length):
        why = Absent("sector %s has no copy here: try another target" % sector)
        tried = set()
        for paths in (lambda: [self.path(c) for c in self.copies.get(sector, [])],
                      lambda: [p for p, t in self.scan().items() if t["sector"] == sector]):
            for path in paths():
                try:
                    if path not in tried:
                        tried.add(path)
                        opened = self.open(path)
                        check(opened.id == sector, "%s holds sector %s, not %s" % (path, opened.id, sector))
                        check(opened.zone == self.zone, "%s is of another zone" % path)
                        return opened.piece(offset, length)
                except Bad as e:
                    why = e if e.code >= why.code else why
        raise why

    def read(self, sector, offset, length, step=MAX_FRAME):
        while length:
            data = self.piece(sector, offset, min(length, step))
            yield data
            offset, length = offset + len(data), length - len(data)


# ---- the head and the state (§6, §8) ----------------------------------------------------------------------------

def head_signers(owner, text, signatures):
    """Ids of the nodes with the owner's certificate whose signature of this head is right."""
    signers = set()
    for s in signatures[:16]:
        try:
            certificate = unb64(need(s, "certificate", str))
            verify(owner.node_key(certificate), unb64(need(s, "signature", str)), b"zoneward/1 head" + text, "head")
            signers.add(certificate[8:24].hex())
        except Bad:
            pass
    return signers


def check_voters(owner, vouched, head, signers):
    """Follows the voters from the owner's word to this head (§8)."""
    def most(voters, by):
        return 2 * len(voters & by) > len(voters)

    def voters_of(said):
        ids = need(said, "voters", list)
        check(ids and all(isinstance(i, str) for i in ids), "the voters are odd")
        return set(ids)

    first, generation = hex_id(vouched, "node"), number(need(vouched, "generation", int), 0, 2**32 - 1)
    word = b"zoneward/1 recover quorum" + bytes.fromhex(hex_id(vouched, "zone")) + generation.to_bytes(4, "little")
    verify(owner.sign_public, unb64(vouched.get("signature")), word + bytes.fromhex(first), "the owner's word for the voters")
    speak, last = {first}, 0
    for h in need(vouched, "handovers", list)[:128]:
        text = need(h, "payload", str).encode()
        said, by = parse(text), head_signers(owner, text, need(h, "signatures", list))
        voters = voters_of(said)
        check(need(said, "n", int) > last and said.get("generation") == generation and most(speak, by) and most(voters, by),
              "the voters did not hand over as the head says")
        speak, last = voters, said["n"]
    check(head.get("generation") == generation and need(head, "n", int) >= last
          and voters_of(head) == speak and most(speak, signers), "most of the zone's voters did not sign it")


def system_sectors(sectors, tell):
    """System sectors to try, best first: the one that the signed head names, then all others by their time."""
    path = os.path.join(sectors.folder, "pointer.json")
    try:
        head = parse(small_file(path))
        check(head.get("format") in (1, 2), "unknown format")
        text = need(head, "payload", str).encode()
        signed = [head] if head["format"] == 1 else need(head, "signatures", list)
        signers = head_signers(sectors.owner, text, signed)
        check(signers, "no node of this owner signed it")
        vouched = head.get("vouched")
        head = parse(text)
        if vouched is None:
            tell.say("the head is signed by %d node(s); nothing shows that most voters agreed" % len(signers))
        else:
            check_voters(sectors.owner, vouched, head, signers)
        why = Absent("no copy of the newest system sector is here")
        for copy in need(head, "copies", list):
            if os.path.lexists(sectors.path(hex_id(copy, "copy"))):
                try:
                    sector = sectors.open(sectors.path(copy["copy"]))
                    check(sector.hash.hex() == copy.get("header_hash") and sector.id == head.get("sector")
                          and sector.trailer.get("raw_id") == head.get("raw_id"), sector.path + " is not what it names")
                    tell.say("head %d, written %s, %d signature(s) good"
                             % (need(head, "n", int), day(head.get("time_ms")), len(signers)))
                    yield sector
                    why = Bad("the newest system sector cannot be used")
                except Bad as e:
                    why = e
        tell.problem(why, "the head: %s" % why)
    except FileNotFoundError:
        tell.warn("pointer.json is missing")
    except (Bad, OSError, UnicodeError) as e:
        tell.problem(Bad(), "pointer.json cannot be used: %s" % e)
    tell.warn("LOOKING THROUGH ALL SECTORS for the newest system data. Newer data may exist on another target.")
    times = [(t.get("created_ms"), p) for p, t in sectors.scan().items()
             if t.get("system") is True and isinstance(t.get("created_ms"), int)]
    for time_ms, path in sorted(times, reverse=True):
        tell.warn("using the system sector made %s: %s" % (day(time_ms), path))
        yield sectors.open(path)


def day(time_ms):
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_ms / 1000))
    except (ValueError, OverflowError, OSError, TypeError):
        return "at an unknown time"


class JsonStream:
    """Walks one big JSON object; gives (key, value), and each element of an array by itself."""

    def __init__(self, pieces):
        self.pieces, self.text, self.at = iter(pieces), "", 0
        self.utf8, self.decode = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder().raw_decode

    def more(self):
        data = next(self.pieces, None)
        check(data is not None and len(self.text) - self.at <= 64 * MIB, "the state is damaged")
        try:
            self.text, self.at = self.text[self.at:] + self.utf8.decode(data), 0
        except UnicodeError:
            raise Bad("the state is damaged") from None

    def char(self):
        while True:
            self.at = re.compile(r"[ \t\r\n]*").match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            self.more()

    def take(self, wanted):
        found = self.char()
        check(found in wanted, "the state is damaged")
        self.at += 1
        return found

    def value(self):
        self.char()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
                if end < len(self.text):  # else a number might go on in the next piece
                    self.at = end
                    return value
            except (ValueError, RecursionError):
                pass
            self.more()

    def items(self):
        end = self.take("{")
        while end != "}":
            key = self.value()
            self.take(":")
            if self.char() != "[":
                yield key, self.value()
            else:
                comma = self.take("[")
                if self.char() == "]":
                    comma = self.take("]")
                while comma != "]":
                    yield key, self.value()
                    comma = self.take(",]")
            end = self.take(",}")


class State:
    """What a restore needs of state.json, read in two passes so that memory stays small."""

    def __init__(self, sector, wanted):
        self.sector = sector
        check(sector.trailer.get("system") is True, "no system sector")
        index = parse(b"".join(sector.tar(*span(sector.trailer, "index"), MAX_INDEX)))
        check(index.get("format") == 1 and index.get("sector") == sector.id, "the index is odd")
        self.range = span(need(index, "system", dict), "state")
        self.zone, self.sources, self.checkpoints, self.chosen, newest = None, {}, [], None, None
        ends = sector.trailer.get("checkpoint")
        for key, value in self.items():
            if key == "zone":
                self.zone = value
            elif key in ("sources", "former_sources"):
                self.sources[hex_id(value, "id")] = value
            elif key == "checkpoints":
                seq, name = need(value, "seq", int), hex_id(value, "id")
                self.checkpoints.append((seq, name, [need(t, "source", str) for t in need(value, "tasks", list)]))
                if (wanted or ends) in (name, str(seq)):
                    self.chosen = value
                if newest is None or seq > newest["seq"]:
                    newest = value
        if not wanted and self.chosen is None:
            self.chosen = newest
        check(hex_id(self.zone, "id") == sector.zone, "the state is of another zone")

    def items(self):
        return JsonStream(self.sector.tar(*self.range, MAX_STATE)).items()

    def layers_and_copies(self, alias):
        wanted = [layer for task in self.chosen["tasks"] for layer in need(task, "layers", list)]
        check(all(isinstance(layer, str) for layer in wanted), "a layer has no id")
        wanted = set(wanted)
        layers, copies = {}, {}
        for key, value in self.items():
            if key == "layers" and need(value, "id", str) in wanted:
                layers[value["id"]] = value
            elif key == "copies" and need(value, "alias", str) == alias:
                copies.setdefault(hex_id(value, "sector"), []).append(hex_id(value, "id"))
        return layers, copies


# ---- the catalog (§5) -------------------------------------------------------------------------------------------

def path_or_text(record, key):
    """Bytes of `key`, or of `key64` where they are not UTF-8."""
    try:
        data = unb64(record[key + "64"]) if key + "64" in record else need(record, key, str).encode()
    except UnicodeError:
        raise Bad("%r is no UTF-8" % key) from None
    check(len(data) <= MAX_PATH and b"\0" not in data, "%r is too long or odd" % key)
    return data


class Entry:
    """One line of a catalog, checked."""

    def __init__(self, line, known):
        self.path, self.type, self.line, self.extents = path_or_text(line, "p"), need(line, "t", str), line, []
        self.key = self.path.replace(b"/", b"\0")  # the order of §5: `/` below every other byte
        if self.type != "-":
            self.mode = number(line.get("m"), 0, 0o7777)
            self.owner = number(line.get("u"), 0, 2**32 - 2), number(line.get("g"), 0, 2**32 - 2)
            seconds, nanos = need(line, "mt", list)[:2] if len(need(line, "mt", list)) == 2 else (None, None)
            self.mtime_ns = number(seconds, -2**62, 2**62) * 10**9 + number(nanos, 0, 999999999)
            names = [(k.encode(), v) for k, v in line.get("x", {}).items()]
            self.xattrs = [(k, unb64(v)) for k, v in names + [(unb64(k), v) for k, v in line.get("x64", {}).items()]]
            check(sum(len(k) + len(v) for k, v in self.xattrs) <= MAX_XATTR, "extended attributes are too long")
        if self.type in ("l", "h"):
            self.link = path_or_text(line, "l")
        if self.type == "f":
            self.size = number(line.get("s"), 0, 2**63 - 1)
            self.extend(line.get("e", []), known)

    def extend(self, extents, known):
        check(isinstance(extents, list) and len(extents) <= 1024, "too many extents in a line")
        for e in extents:
            check(isinstance(e, list) and len(e) in (1, 4), "an extent is odd")
            if len(e) == 1:
                self.extents.append((None, 0, number(e[0], 0, 2**63 - 1)))
            else:
                check(isinstance(e[0], int) and e[0] in known, "an extent names an unknown sector")
                self.extents.append((known[e[0]], number(e[1], 0, 2**62), number(e[2], 0, MAX_EXTENT)))


def lines(pieces):
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        check(max(map(len, whole + [rest])) < MAX_LINE, "a catalog line is too long")
        yield from map(parse, whole)
    check(not rest, "a catalog ends within a line")


def layer_entries(sectors, layer, rank, tell):
    """The entries of a layer in order, as (sort key, -rank, entry). A part that is lost is told and passed over."""
    last, entry = None, None
    for i, part in enumerate(need(layer, "parts", list)):
        try:
            home, length = hex_id(part, "sector"), number(part.get("length"), 0, MAX_PART)
            offset = number(part.get("offset"), 0, 2**62)
            rows, known = lines(sectors.read(home, offset, length, 256 * 1024)), {0: home}
            head = {"catalog": 1, "source": layer.get("source"), "layer": layer["id"], "part": i}
            check(next(rows, None) == head, "the first line is not that of this part")
            for row in rows:
                if "+" in row:
                    check(entry is not None and entry.type == "f", "extents without a file")
                    entry.extend(row["+"], known)
                    continue
                if entry is not None:
                    yield entry.key, -rank, entry
                    last, entry = entry.key, None
                if "k" in row:
                    known[number(row["k"], 1, 2**32)] = hex_id(row, "sector")
                else:
                    entry = Entry(row, known)
                    check(last is None or entry.key > last, "entries are out of order")
        except (Bad, AttributeError, UnicodeError) as e:
            entry = None  # it may lack extents
            tell.problem(e if isinstance(e, Bad) else Bad(), "part %d of catalog layer %s is lost (%s): what only it"
                         " names is lost, other files may come back in an older state" % (i, layer["id"], e))
    if entry is not None:
        yield entry.key, -rank, entry


def merged(sectors, chain, tell):
    """What the source held: of all layers the last word on each path, and no path that is gone."""
    streams = [layer_entries(sectors, layer, rank, tell) for rank, layer in enumerate(chain)]
    for _, same in itertools.groupby(heapq.merge(*streams, key=lambda x: x[:2]), key=lambda x: x[0]):
        entry = next(same)[2]
        if entry.type != "-":
            yield entry


# ---- writing files ----------------------------------------------------------------------------------------------

def components(path):
    parts = path.split(b"/") if path else []
    check(not any(p in (b"", b".", b"..") or b"\0" in p for p in parts), "the path leads elsewhere: refused")
    return parts


class Output:
    """Makes entries below one folder and nowhere else: every parent is opened by name, one after the other, and a
    symbolic link among them is refused. `sectors` gives the content. With no folder nothing is written, only read."""

    def __init__(self, folder, sectors, tell):
        self.sectors, self.tell, self.dirs, self.links, self.at, self.fd = sectors, tell, [], [], None, None
        self.root = None if folder is None else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def parent(self, parts):
        """An open folder, made where it is missing."""
        if self.at != parts:
            fd = os.dup(self.root)
            for name in parts:
                try:
                    try:
                        inner = os.open(name, DIR, dir_fd=fd)
                    except FileNotFoundError:
                        os.mkdir(name, 0o755, dir_fd=fd)
                        inner = os.open(name, DIR, dir_fd=fd)
                except OSError as e:
                    if e.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise Bad("%s, on its way, is no folder: refused" % shown(name)) from None
                    raise
                finally:
                    os.close(fd)
                fd = inner
            if self.fd is not None:
                os.close(self.fd)
            self.at, self.fd = parts, fd
        return self.fd

    def put(self, base, entry):
        parts = base + components(entry.path)
        link = base + components(entry.link) if entry.type == "h" else None
        check(entry.type in ("f", "d", "l", "h", "p", "c", "b"), "unknown kind of entry: get a newer rescue.py")
        if entry.type == "f":
            check(sum(e[2] for e in entry.extents) == entry.size, "extents and size differ")
        if self.root is None:
            for sector, offset, length in entry.extents:
                for data in self.sectors.read(sector, offset, length) if sector else ():
                    self.tell.bytes(len(data))
            return
        self.leave(parts)
        if not parts:
            check(entry.type == "d", "the root of a source is no folder")
            return
        at, name = self.parent(parts[:-1]), parts[-1]
        if entry.type == "d":
            try:
                os.mkdir(name, 0o700, dir_fd=at)
            except FileExistsError:
                os.close(os.open(name, DIR, dir_fd=at))
            self.dirs.append((parts, entry))
        elif entry.type == "h":
            if not self.hard_link(link, parts):
                self.links.append((link, parts))
        else:
            self.make(at, name, entry)
            self.attributes(at, name, entry)

    def make(self, at, name, entry):
        if entry.type == "f":
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=at)
            try:
                for sector, offset, length in entry.extents:
                    if sector is None:
                        os.lseek(fd, length, os.SEEK_CUR)
                        continue
                    for data in self.sectors.read(sector, offset, length):
                        self.tell.bytes(len(data))
                        while data:
                            data = data[os.write(fd, data):]
                os.ftruncate(fd, entry.size)
            except BaseException:
                os.unlink(name, dir_fd=at)  # half a file is not kept
                raise
            finally:
                os.close(fd)
        elif entry.type == "l":
            os.symlink(entry.link, name, dir_fd=at)
        elif entry.type == "p":
            os.mkfifo(name, 0o600, dir_fd=at)
        else:
            check(len(need(entry.line, "r", list)) == 2, "a device has no number")
            device = os.makedev(*(number(x, 0, 2**32 - 1) for x in entry.line["r"]))
            os.mknod(name, 0o600 | (stat.S_IFCHR if entry.type == "c" else stat.S_IFBLK), device, dir_fd=at)

    def attributes(self, at, name, entry):
        """Owner first (it clears bits), attributes while we may still write, then mode, then time."""
        def owner():
            if ROOT:
                os.chown(name, *entry.owner, dir_fd=at, follow_symlinks=False)

        def inherited():
            """A folder may hand an access list on to what is made in it: nobody asked for that one."""
            lists = [b"system.posix_acl_access", b"system.posix_acl_default"][:2 if entry.type == "d" else 1]
            own = {key if isinstance(key, bytes) else os.fsencode(key) for key, _ in entry.xattrs}
            for key in [key for key in lists if entry.type != "l" and key not in own]:
                try:
                    os.removexattr(b"/proc/self/fd/%d/%s" % (at, name), key, follow_symlinks=False)
                except OSError as e:
                    if e.errno not in (errno.ENODATA, errno.ENOTSUP):
                        raise

        def xattr(key, value):
            os.setxattr(b"/proc/self/fd/%d/%s" % (at, name), key, value, follow_symlinks=False)

        def mode():
            if entry.type != "l":  # without the owner, set-user-id would speak for somebody else
                os.chmod(name, entry.mode if ROOT else entry.mode & 0o1777, dir_fd=at)

        def times():
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=at, follow_symlinks=False)

        for step in [owner, inherited] + [lambda kv=kv: xattr(*kv) for kv in entry.xattrs] + [mode, times]:
            try:
                step()
            except (OSError, OverflowError, ValueError, AttributeError):  # AttributeError: a system without xattrs
                self.tell.attributes_unset += 1

    def leave(self, parts):
        """Gives folders their mode and time once nothing more goes into them."""
        while self.dirs and parts[:len(self.dirs[-1][0])] != self.dirs[-1][0]:
            done, entry = self.dirs.pop()
            try:
                self.attributes(self.parent(done[:-1]), done[-1], entry)
            except (OSError, Bad):
                self.tell.attributes_unset += 1

    def hard_link(self, link, parts):
        """False if what it links to is not there (yet)."""
        source = os.dup(self.parent(link[:-1])) if link else self.root
        try:
            at = self.parent(parts[:-1])
            before = os.fstat(at)
            os.link(link[-1], parts[-1], src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
            os.utime(at, ns=(before.st_atime_ns, before.st_mtime_ns))
            return True
        except (FileNotFoundError, IndexError):
            return False
        finally:
            if link:
                os.close(source)

    def finish(self):
        self.leave([None])
        links, self.links = self.links, []
        for link, parts in links:
            try:
                made = self.hard_link(link, parts)
            except (OSError, Bad):
                made = False
            if not made:
                self.tell.lost(b"/".join(parts), Absent("its content, %s, is lost" % shown(b"/".join(link))))


# ---- telling, and main ------------------------------------------------------------------------------------------

class Tell:
    """All that is said, and what it means for the exit code."""

    def __init__(self, as_json):
        self.code, self.entries, self.read, self.attributes_unset, self.as_json = 0, 0, 0, 0, as_json
        self.lost_entries, self.warnings, self.started, self.spoke = [], [], time.monotonic(), time.monotonic()

    def say(self, text):
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def warn(self, text):
        self.warnings.append(text)
        print("WARNING: " + text, file=sys.stderr, flush=True)

    def problem(self, error, text):
        self.code = max(self.code, error.code)
        self.warn(text)

    def lost(self, path, why):
        self.code = max(self.code, getattr(why, "code", 3))
        text = getattr(why, "strerror", None) or str(why)
        self.lost_entries.append({"path": os.fsdecode(path), "why": text})
        print("LOST: %s: %s" % (shown(path), text), file=sys.stderr, flush=True)

    def bytes(self, count):
        self.read += count
        if time.monotonic() - self.spoke > 10:
            self.spoke = time.monotonic()
            speed = self.read / MIB / (self.spoke - self.started)
            self.say("  … %d entries, %d MiB, %.0f MiB/s" % (self.entries, self.read // MIB, speed))


def arguments(argv):
    p = argparse.ArgumentParser(description="Restores files from a Zoneward target. See README.md beside this file.")
    p.add_argument("--target", required=True, help="the target's folder (the one that holds zones/)")
    p.add_argument("--words", action="store_true", help="ask for the 24 words (or set ZONEWARD_WORDS)")
    p.add_argument("--words-file", help="read the 24 words from this file")
    p.add_argument("--key", help="your own owner-key.json; without words, its passphrase is asked for "
                   "(or set ZONEWARD_PASSPHRASE)")
    p.add_argument("--to", help="an empty or new folder for what is restored")
    p.add_argument("--list", action="store_true", help="show checkpoints and sources, restore nothing")
    p.add_argument("--checkpoint", help="number or id; the newest without it")
    p.add_argument("--source", help="path of the only source to restore")
    p.add_argument("--zone", help="which folder of zones/, if there are several")
    p.add_argument("--verify-only", action="store_true", help="read and check everything, write nothing")
    p.add_argument("--json", action="store_true", help="end with one JSON object on standard output")
    args = p.parse_args(argv)
    if not (args.to or args.list or args.verify_only):
        p.error("say where to restore with --to, or use --list or --verify-only")
    return args


def open_owner(args, folder):
    words = passphrase = None
    if args.words_file:
        with open(args.words_file, encoding="utf-8") as file:
            words = file.read()
    elif args.words or not (args.key or "ZONEWARD_PASSPHRASE" in os.environ) or "ZONEWARD_WORDS" in os.environ:
        words = os.environ.get("ZONEWARD_WORDS") or getpass.getpass("The 24 words (not shown): ")
    else:
        passphrase = os.environ.get("ZONEWARD_PASSPHRASE") or getpass.getpass("The passphrase (not shown): ")
    return Owner(args.key or os.path.join(folder, "owner-key.json"), words, passphrase)


def zone_folder(args):
    home = os.path.join(args.target, "zones")
    zones = sorted(z for z in (os.listdir(home) if os.path.isdir(home) else []) if re.fullmatch("[0-9a-f]{32}", z))
    if args.zone:
        zones = [z for z in zones if z == args.zone]
    if len(zones) != 1:
        raise Stop("%s holds %s: %s" % (home, "several zones" if zones else "no such zone",
                   "choose by --zone " + " | ".join(zones) if zones else "give the folder in which zones/ lies"))
    return os.path.join(home, zones[0]), zones[0]


def choose_sources(args, state):
    tasks = []
    for task in state.chosen["tasks"]:
        source = state.sources.get(task["source"], {})
        if isinstance(source.get("path"), str) and args.source in (None, source["path"], task["source"]):
            tasks.append((source, task))
    if not tasks:
        raise Stop("checkpoint %s holds no such source: look with --list" % state.chosen["seq"])
    return sorted(tasks, key=lambda t: -number(t[0].get("priority", 0), -1000, 1000))


def restore_source(source, chain, sectors, out, tell):
    base = components(path_or_text(source, "path").strip(b"/"))
    tell.say("source %s: %d layers" % (source["path"], len(chain)))
    changing = 0
    for entry in merged(sectors, chain, tell):
        tell.entries += 1
        try:
            out.put(base, entry)
            changing += entry.line.get("w") == 1
        except (Bad, OSError) as e:
            if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise Stop("cannot write (%s): make room and start again in an empty folder" % e.strerror)
            tell.lost(b"/".join(base + [entry.path]), e)
    out.finish()
    if changing:
        tell.warn("%d files of %s changed while they were backed up: look at them" % (changing, source["path"]))


def run(args, tell):
    folder, alias = zone_folder(args)
    owner = open_owner(args, folder)
    tell.say("zone folder %s: the owner key is open" % alias)
    sectors, state = Sectors(folder, owner), None
    for sector in system_sectors(sectors, tell):
        try:
            state = State(sector, args.checkpoint)
            break
        except Bad as e:
            tell.problem(e, "system sector %s: %s" % (sector.path, e))
    if state is None:
        for error in sectors.broken.values():
            tell.problem(error, str(error))
        raise Stop("no system data could be read here: try another target", max(tell.code, 1))
    sectors.zone = sector.zone
    tell.say("zone %r, %d checkpoints" % (state.zone.get("name"), len(state.checkpoints)))
    if args.list:
        for seq, name, held in sorted(state.checkpoints):
            tell.say("checkpoint %d  %s  %s" % (seq, name, ", ".join(str(state.sources.get(s, {}).get("path", s))
                                                                    for s in held)))
        return {"zone": state.zone, "sources": list(state.sources.values()),
                "checkpoints": [{"seq": q, "id": i, "sources": s} for q, i, s in sorted(state.checkpoints)]}
    if state.chosen is None:
        raise Stop("there is no checkpoint %s here: look with --list" % (args.checkpoint or ""))
    layers, sectors.copies = state.layers_and_copies(alias)
    sectors.copies.setdefault(sector.id, []).append(os.path.basename(sector.path)[:-4])
    later = [c[0] for c in state.checkpoints if c[0] > state.chosen["seq"]]
    tell.say("checkpoint %d, %s%s" % (state.chosen["seq"], state.chosen["id"],
                                      "; there are later ones: %s" % later if later else ""))
    if not args.verify_only:
        os.makedirs(args.to, mode=0o700, exist_ok=True)
        if os.listdir(args.to):
            raise Stop("%s is not empty: give a new folder" % args.to)
    out = Output(None if args.verify_only else args.to, sectors, tell)
    for source, task in choose_sources(args, state):
        chain = task["layers"]
        if not chain or any(layer not in layers for layer in chain):
            tell.problem(Absent(), "source %s has no complete catalog in this checkpoint: passed over" % source["path"])
            continue
        full = max((i for i, layer in enumerate(chain) if layers[layer].get("full") is True), default=0)
        try:
            restore_source(source, [layers[layer] for layer in chain[full:]], sectors, out, tell)
        except Bad as e:
            tell.problem(e, "source %s: %s" % (source["path"], e))
    if args.verify_only:
        verify_rest(sectors, tell)
    for error in sectors.broken.values():
        if error.code == Bad.code:
            tell.problem(error, str(error))
    return {"zone": state.zone, "checkpoint": {"seq": state.chosen["seq"], "id": state.chosen["id"]}}


def verify_rest(sectors, tell):
    """Reads what the checkpoint did not need: every other segment of every sector in the folder."""
    for path in sectors.files():
        try:
            sector = sectors.open(path)
        except Bad:
            continue  # told by `run`
        try:
            check(sector.zone == sectors.zone, path + " is of another zone")
            sector.seek_table()
            for i in range(sector.n):
                if (path, i) not in SEEN:
                    tell.bytes(len(sector.segment(i)))
        except Bad as e:
            tell.problem(e, str(e))


def main(argv=None):
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = arguments(argv)
    tell, result, VERIFY[0] = Tell(args.json), {}, args.verify_only
    for cache in (SEGMENTS, FRAMES, SEEN):
        cache.clear()
    try:
        result = run(args, tell)
        if not args.list:
            tell.say("%s: %d entries, %d MiB read, %d lost, %d warnings, %d attributes not set" % (
                "verified" if args.verify_only else "restored to " + args.to, tell.entries, tell.read // MIB,
                len(tell.lost_entries), len(tell.warnings), tell.attributes_unset))
    except (Stop, Bad) as e:
        tell.code = e.code
        result["error"] = str(e)
        print("rescue: %s" % e, file=sys.stderr)
    except OSError as e:
        tell.code, result["error"] = 1, str(e)
        print("rescue: %s" % e, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    if args.json:
        result.update(exit=tell.code, entries=tell.entries, bytes=tell.read, lost=tell.lost_entries,
                      warnings=tell.warnings, attributes_unset=tell.attributes_unset)
        print(json.dumps(result))
    return tell.code


if __name__ == "__main__":
    sys.exit(main())
