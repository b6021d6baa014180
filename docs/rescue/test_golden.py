#!/usr/bin/env python3
"""rescue.py against the golden files: `python3 test_golden.py`. Two readers written apart must find the same things."""
import base64, contextlib, hashlib, io, json, os, tarfile, tempfile, unittest

import zstandard

import rescue

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden", "v1")
SECTORS = ("basic", "extents", "system")
# What rescue.py says where Zoneward gives the error of that name.
ERRORS = {
    "header signature": "header: the signature is wrong", "not a sector": "no backup sector",
    "unknown version": "newer Zoneward", "unknown suite": "newer Zoneward", "header damaged": "reserved bytes",
    "commitment": "key commitment", "another owner": "another owner", "length": "the length is wrong",
    "trailer not authentic": "(trailer|leaf table) is damaged", "cut short": "cut short",
    "segment": "segment [01] is damaged", "leaf table": "leaf table is damaged|trailer and leaf table",
}


def path(name):
    return os.path.join(GOLDEN, name)


def read(name):
    with open(path(name), "rb") as file:
        return file.read()


def told(name):
    return json.loads(read(name + ".expected.json"))


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Quiet:
    """Stands in for rescue.Tell: any problem is a failure."""
    def problem(self, error, text):
        raise error


class Golden(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keys = told("keys")
        cls.folder = path("store/zones/" + cls.keys["alias"])
        cls.owner = rescue.Owner(os.path.join(cls.folder, "owner-key.json"), cls.keys["words"], None)

    def setUp(self):
        for cache in (rescue.SEGMENTS, rescue.FRAMES, rescue.SEEN):
            cache.clear()

    def test_words_and_passphrase_open_the_owner_key(self):
        by_passphrase = rescue.Owner(os.path.join(self.folder, "owner-key.json"), None, self.keys["passphrase"])
        self.assertEqual(list(by_passphrase.rsa), [self.keys["fingerprint"]])
        self.assertEqual(list(self.owner.rsa), [self.keys["fingerprint"]])
        self.assertEqual(self.owner.sign_public.hex(), self.keys["sign_public"])
        self.assertEqual(self.owner.node_key(read("node.cert")).hex(), self.keys["node_public"])

    def test_each_sector_is_what_it_was(self):
        for name in SECTORS:
            want = told(name)
            self.assertEqual(digest(read(want["file"])), want["file_sha256"])
            sector = rescue.Sector(path(want["file"]), self.owner)
            self.assertEqual((sector.hash.hex(), sector.raw_len, sector.n),
                             (want["header"]["hash"], want["raw_len"], want["segments"]))
            for field, value in sector.trailer.items():
                self.assertEqual(value, 1 if field == "format" else want[field], field)
            packed, plain = sector.seek_table()
            sizes = [[packed[i + 1] - packed[i], plain[i + 1] - plain[i]] for i in range(len(plain) - 1)]
            self.assertEqual(sizes[:-1], want["frames"])  # The last one is the padding.
            self.assertEqual(sizes[-1][1], 0)
            index = b"".join(sector.tar(*want["index"], rescue.MAX_INDEX))
            self.assertEqual(json.loads(index), want["index_json"])
            self.members(sector, want)
            os.close(sector.fd)

    def members(self, sector, want):
        """Plain tools open the raw sector too: zstd for the whole stream, then tar."""
        whole, out = sector.raw(0, sector.raw_len), b""
        while whole:  # Skippable frames hold nothing; the library passes over them one at a time.
            step = zstandard.ZstdDecompressor().decompressobj()
            if whole[:4] in (b"\x5d\x2a\x4d\x18", b"\x5e\x2a\x4d\x18"):
                whole = whole[8 + int.from_bytes(whole[4:8], "little"):]
                continue
            out += step.decompress(whole)
            whole = step.unused_data
        self.assertEqual(len(out), want["tar_len"])
        with tarfile.open(fileobj=io.BytesIO(out), encoding="utf-8", errors="surrogateescape") as tar:
            found = tar.getmembers()
            self.assertEqual([os.fsencode(m.name).hex() for m in found], [m[0] for m in want["members"]])
            for member, (_, length, sha) in zip(found, want["members"]):
                if member.isreg():
                    self.assertEqual(member.size, length)
                    if not member.sparse:
                        self.assertEqual(digest(tar.extractfile(member).read()), sha, member.name)

    def test_each_entry_and_its_content(self):
        sectors = rescue.Sectors(self.folder, self.owner)
        sectors.zone = self.keys["zone"]
        for layer in told("system")["state"]["layers"]:
            want = told("basic" if layer["full"] else "extents")["entries"]
            rows = [row for _, _, row in rescue.layer_entries(sectors, layer, 0, Quiet())]
            self.assertEqual(len(rows), len(want))
            for row, entry in zip(rows, want):
                self.assertEqual((row.path.hex(), row.type), (entry["path"], entry["type"]))
                if row.type != "-":
                    self.entry(sectors, row, entry)

    def entry(self, sectors, row, want):
        seconds, nanos = want["mtime"]
        self.assertEqual((row.mode, *row.owner, row.mtime_ns),
                         (want["mode"], want["uid"], want["gid"], seconds * 10**9 + nanos))
        self.assertEqual((row.line["ct"], row.line["i"], row.line.get("n", 1), row.line.get("w", 0) == 1),
                         (want["ctime"], want["ino"], want["nlink"], want["unsteady"]))
        self.assertEqual(row.line.get("r", [0, 0]), want["rdev"])
        self.assertEqual(sorted([k.hex(), v.hex()] for k, v in row.xattrs), sorted(want["xattrs"]))
        if row.type in ("l", "h"):
            self.assertEqual(row.link.hex(), want["link"])
        self.assertEqual(row.line.get("s", 0), want["size"])
        if row.type == "f":
            places = [[s, o, n] if s else [n] for s, o, n in row.extents]
            self.assertEqual(places, [e[:3] for e in want["extents"]])
            content = [b"".join(sectors.read(s, o, n)) if s else bytes(n) for s, o, n in row.extents]
            self.assertEqual(digest(b"".join(content)), want["sha256"], row.path)

    def test_a_damaged_file_is_refused_for_what_is_wrong_with_it(self):
        with tempfile.TemporaryDirectory() as scratch:
            for name, case in json.loads(read("bad/cases.json")).items():
                data = b"".join(read(p["file"])[p["offset"]:p["offset"] + p["length"]] for p in case["pieces"])
                file = os.path.join(scratch, name)
                with open(file, "wb") as out:
                    out.write(data)
                with self.subTest(name), self.assertRaisesRegex(rescue.Bad, ERRORS[case["error"]]):
                    sector = rescue.Sector(file, self.owner)
                    sector.seek_table()
                    sector.raw(0, sector.raw_len)

    def test_the_whole_target_verifies(self):
        out, err = io.StringIO(), io.StringIO()
        os.environ["ZONEWARD_WORDS"] = self.keys["words"]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = rescue.main(["--target", path("store"), "--words", "--verify-only", "--json"])
        finally:
            del os.environ["ZONEWARD_WORDS"]
        result = json.loads(out.getvalue())
        self.assertEqual((code, result["lost"]), (0, []), err.getvalue())
        gone = {e["path"] for e in told("extents")["entries"] if e["type"] == "-"}
        paths = {e["path"] for n in ("basic", "extents") for e in told(n)["entries"]} - gone
        self.assertEqual(result["entries"], len(paths))

    def test_the_head_is_the_one_written(self):
        head = json.loads(read("store/zones/%s/pointer.json" % self.keys["alias"]))
        node = self.owner.node_key(base64.b64decode(head["certificate"]))
        signed = b"zoneward/1 head" + head["payload"].encode()
        rescue.verify(node, base64.b64decode(head["signature"]), signed, "head")
        self.assertEqual(json.loads(head["payload"]), self.keys["pointer"])


if __name__ == "__main__":
    unittest.main()
