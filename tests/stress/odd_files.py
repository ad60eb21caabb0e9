"""Odd archives by name, each with what may come of reading it: the right content, or an error."""

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

import numpy as np

BOMB = 5 << 28  # bytes
LINK = 0o120777 << 16  # a zip member's attributes
RIGHT, REFUSED, EITHER = {"right"}, {"refused"}, {"right", "refused"}


def zeros(start, size):
    """A raw deflate stream of bytes and then zeros, of this size in all, made in no time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return head + body * ((size - len(start)) // block) + tail


def gz_bomb(start=b""):
    return gzip.compress(b"")[:10] + zeros(start, BOMB) + struct.pack("<II", 0, BOMB & 0xFFFFFFFF)


def member(name, content, **changed):
    """A member of a zip file; `changed` fields of its headers need not be true."""
    if "packed" not in changed:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        changed["packed"] = packer.compress(content) + packer.flush()
    return {"name": name, "crc": zlib.crc32(content), "size": len(content), **changed}


def zipped(*members):
    """A zip file of members as they say they are."""
    out, directory = bytearray(), bytearray()
    for item in members:
        name, packed = item["name"].encode(), item["packed"]
        fields = struct.pack(
            "<HHHHHIIIHH", 20, item.get("flags", 0), item.get("method", 8), 0, 33, item["crc"],
            item.get("packed_size", len(packed)), item["size"], len(name), 0,
        )  # fmt: skip
        place = struct.pack("<HHHII", 0, 0, 0, item.get("attributes", 0), len(out))
        directory += b"PK\x01\x02\x14\x03" + fields + place + name
        out += b"PK\x03\x04" + fields + name + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(out), 0)
    return bytes(out + directory) + b"PK\x05\x06" + end


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape, kind="|u1"):
    """The header of a .npy file."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def bomb(name, start=b"", **changed):
    fields = {"packed": zeros(start, BOMB), "size": BOMB, "crc": 0, **changed}
    return member(name, b"", **fields)


def odd_npz(arrays):
    """Odd .npz files by name, each with what may come of it, given arrays by name."""
    good = [member(f"{name}.npy", npy(array)) for name, array in arrays.items()]
    first, *rest = good
    name, array = next(iter(arrays.items()))
    content, other = npy(array), npy(array[::-1].copy())
    other_first = member(first["name"], other)
    size = len(content)
    shape = (BOMB // 1024, 32, 32)
    cases = {
        "as it should be": (good, RIGHT),
        "extra link": ([*good, member("link.npy", b"images.npy", attributes=LINK)], RIGHT),
        "absolute and ..": ([*good, member("/x.npy", b""), member("../images.npy", other)], RIGHT),
        "nested": ([*good, member("more.npz", zipped(*good))], RIGHT),
        "twice": ([first, other_first, *rest], REFUSED),
        "with and without suffix": ([*good, member(name, content)], REFUSED),
        "link": ([member(first["name"], b"/etc/passwd", attributes=LINK), *rest], REFUSED),
        "loop": ([member(first["name"], first["name"].encode(), attributes=LINK)], REFUSED),
        "only ..": ([member(f"../{first['name']}", content), *rest], REFUSED),
        "only absolute": ([member(f"/{first['name']}", content), *rest], REFUSED),
        "crc": ([{**first, "crc": 1}, *rest], REFUSED),
        "too short": ([{**first, "size": size - 5}, *rest], REFUSED),
        "too long": ([{**first, "size": size + 5}, *rest], EITHER),
        "4 GB": ([{**first, "size": 2**32 - 2}, *rest], REFUSED),
        "packed size": ([{**first, "packed_size": 2**31}, *rest], EITHER),
        "encrypted": ([{**first, "flags": 1}, *rest], REFUSED),
        "method": ([{**first, "method": 99}, *rest], REFUSED),
        "bomb": ([bomb(first["name"], header(shape)), *rest], REFUSED),
        "bomb of floats": ([bomb(first["name"], header(shape[:2], "<f8")), *rest], REFUSED),
        "bomb without a header": ([bomb(first["name"]), *rest], REFUSED),
        "bomb that says it is small": ([bomb(first["name"], header(shape), size=500)], REFUSED),
        "bomb elsewhere": ([*good, bomb("more.npy", header(shape))], EITHER),
        "nested instead": ([member(first["name"], zipped(*good)), *rest], REFUSED),
        "nothing": ([], REFUSED),
        "no content": ([member(first["name"], b""), *rest], REFUSED),
        "other names": ([member("a\nb" + "c" * 60_000, content)] * 2, REFUSED),
        "many members": ([{**first, "name": f"{n}.npy"} for n in range(3000)], REFUSED),
    }
    for kind in ("|O", "<U99999999", "<f8", "|V8", "[('a', '<f8')]", "<M8[s]", "", "zzz"):
        made = member(first["name"], header((3, 4, 5), kind) + bytes(60))
        cases[f"type {kind}"] = [made, *rest], REFUSED
    for wrong in ((1 << 40, 8, 8), (-1, 8, 8), (1 << 62, 4, 4), (True, 2), (), "x", (1.5,)):
        cases[f"shape {wrong}"] = [member(first["name"], header(wrong)), *rest], REFUSED
    found = {name: (zipped(*members), allowed) for name, (members, allowed) in cases.items()}
    return found | {"a tar file": (odd_tar("images.npy", content)["as it should be"][0], REFUSED)}


def odd_tar(name, content):
    """Odd tar files, most with gzip, in the place of one with a member of this content."""
    size = len(content)
    cases = {
        "as it should be": [("folder/" + name, content, {})],
        "links beside it": [
            ("folder/" + name, content, {}),
            ("a", b"", {"type": tarfile.SYMTYPE, "linkname": "nowhere"}),
            ("b", b"", {"type": tarfile.LNKTYPE, "linkname": "b"}),
            ("c", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
            ("d", b"", {"type": tarfile.CHRTYPE}),
            ("../../e", b"e", {}),
            ("/etc/f", b"f", {}),
            ("g", b"", {"type": tarfile.DIRTYPE}),
            ("h", b"", {"type": tarfile.FIFOTYPE}),
        ],
        "link to it": [
            ("data", content, {}),
            (name, b"", {"type": tarfile.SYMTYPE, "linkname": "data"}),
        ],
        "hard link to it": [
            ("data", content, {}),
            (name, b"", {"type": tarfile.LNKTYPE, "linkname": "data"}),
        ],
        "link to nothing": [(name, b"", {"type": tarfile.SYMTYPE, "linkname": "nowhere"})],
        "loop": [
            (name, b"", {"type": tarfile.SYMTYPE, "linkname": "b"}),
            ("b", b"", {"type": tarfile.SYMTYPE, "linkname": name}),
        ],
        "loop of one": [(name, b"", {"type": tarfile.LNKTYPE, "linkname": name})],
        "..": [("../../" + name, content, {})],
        "absolute": [("/etc/" + name, content, {})],
        "twice": [(name, content, {}), (name, content[::-1], {})],
        "in two folders": [("a/" + name, content[::-1], {}), ("b/" + name, content, {})],
        "shorter": [(name, content[:-1], {})],
        "size too large": [(name, content, {"size": size + 3000})],
        "terabyte": [(name, content, {"size": 1 << 40})],
        "sparse": [
            (name, content, {"pax_headers": {"GNU.sparse.size": BOMB, "GNU.sparse.map": "0,9"}})
        ],
        "sparse terabyte": [
            (name, b"", {"pax_headers": {"GNU.sparse.size": 1 << 40, "GNU.sparse.map": "0,0"}})
        ],
        "nested": [("inner.tar", tar(("folder/" + name, content, {})), {})],
        "others": [("folder/other.bin", content, {})],
        "a folder of its name": [(name, b"", {"type": tarfile.DIRTYPE})],
        "nothing": [],
    }
    right = {"as it should be", "links beside it", "..", "absolute"}
    refused = {"link to nothing", "loop", "loop of one", "shorter", "terabyte", "sparse"}
    refused |= {"sparse terabyte", "nested", "others", "a folder of its name", "nothing"}
    found = {}
    for case, members in cases.items():
        allowed = RIGHT if case in right else REFUSED if case in refused else EITHER
        found[case] = tar(*members), allowed
    info = tarfile.TarInfo(name)
    info.size = BOMB
    good = found["as it should be"][0]
    return found | {
        "bomb": (gz_bomb(info.tobuf()), REFUSED),
        "bomb without a header": (gz_bomb(), REFUSED),
        "not compressed": (gzip.decompress(good), RIGHT),
        "something after its end": (good + b"something", EITHER),
        "zeros after its end": (good + bytes(99), RIGHT),
        "a zip file": (zipped(member(name, content)), REFUSED),
    }


def tar(*members):
    """A tar.gz file of members: name, content, and other attributes, which need not be true."""
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb") as stream:
        for name, content, attributes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            info.pax_headers = {key: str(value) for key, value in info.pax_headers.items()}
            stream.write(info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512))
        stream.write(bytes(1024))
    return buffer.getvalue()


def odd_streams(content):
    """Odd gzip and xz streams in the place of that of a content."""
    gz, xz = gzip.compress(content), lzma.compress(content)
    half = len(content) // 2
    two = gzip.compress(content[:half]) + gzip.compress(content[half:])
    return {
        "gzip": (gz, RIGHT),
        "xz": (xz, RIGHT),
        "something after gzip": (gz + b"something", EITHER),
        "zeros after gzip": (gz + bytes(99), RIGHT),
        "two of gzip": (two, RIGHT),
        "the same twice": (gz + gz, REFUSED),
        "something after xz": (xz + b"something", EITHER),
        "zeros after xz": (xz + bytes(64), EITHER),
        "gzip of gzip": (gzip.compress(gz), REFUSED),
        "gzip of xz": (gzip.compress(xz), REFUSED),
        "nothing in gzip": (gzip.compress(b""), REFUSED),
        "wrong crc": (gz[:-8] + bytes(4) + gz[-4:], REFUSED),
        "wrong size": (gz[:-4] + bytes(4), REFUSED),
        "bomb": (gz_bomb(), REFUSED),
        "bomb that starts well": (gz_bomb(content), REFUSED),
        "name without end": (gz[:3] + b"\x08" + gz[4:10] + b"n" * 5000, REFUSED),
        "a zip file": (zipped(member("plain", content)), REFUSED),
        "alone": (lzma.compress(content, lzma.FORMAT_ALONE), REFUSED),
    }


def odd_checkpoints(content):
    """Odd versions of a file of torch.save, which is a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        items = {info.filename: file.read(info) for info in file.infolist()}
    good = [member(name, data, packed=data, method=0) for name, data in items.items()]
    at = next(n for n, name in enumerate(items) if name.endswith("data/0"))
    tensor = good[at]
    cases = {
        "twice": [*good, {**tensor, "packed": bytes(len(tensor["packed"]))}],
        "crc": [*good[:at], {**tensor, "crc": 1}, *good[at + 1 :]],
        "size": [*good[:at], {**tensor, "size": tensor["size"] - 4}, *good[at + 1 :]],
        "bomb": [*good[:at], bomb(tensor["name"]), *good[at + 1 :]],
        "bomb beside it": [*good, bomb(tensor["name"] + "0")],
        "pickle as a bomb": [bomb(good[0]["name"]), *good[1:]],
        "missing": [*good[:at], *good[at + 1 :]],
        "nested": [member("archive/data.pkl", content)],
        "nothing": [],
    }
    return {name: (zipped(*members), REFUSED) for name, members in cases.items()} | {
        "packed again": (zipped(*(member(name, data) for name, data in items.items())), EITHER),
    }
