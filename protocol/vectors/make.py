#!/usr/bin/env python3
"""Makes values-valid.json, values-invalid.json, urls.json and slots.json beside this file.

The golden vectors come from Python's msgpack, xxhash and urllib and from hand-written bytes, never from Lever's own
code, so that an error there cannot hide in them. Every language's tests read the JSON.

    python3 -m venv /tmp/vectors && /tmp/vectors/bin/pip install msgpack==1.2.4 xxhash==4.1.0
    /tmp/vectors/bin/python protocol/vectors/make.py
"""

import json
import math
import pathlib
import struct
import urllib.parse

import msgpack
import xxhash

here = pathlib.Path(__file__).parent


def write(name, content):
    (here / name).write_text(json.dumps(content, indent=1) + "\n")


# Values -------------------------------------------------------------------------------------------------------------


def doubles(value):
    """Lever's rule for numbers: integers in [-2^31, 2^32) are integers, all others are float64."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return [doubles(item) for item in value]
    if isinstance(value, dict):
        return {key: doubles(item) for key, item in value.items()}
    if isinstance(value, float):
        is_small = value.is_integer() and -(2**31) <= value < 2**32
        return int(value) if is_small and not (value == 0 and math.copysign(1, value) < 0) else value
    return value if -(2**31) <= value < 2**32 else float(value)


def nested(levels, innermost=None):
    value = [] if innermost is None else innermost
    for _ in range(levels - 1):
        value = [value]
    return value


def nested_maps(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


canonical = {
    "null": None,
    "false": False,
    "true": True,
    "0": 0,
    "1": 1,
    "largest positive fixint": 127,
    "smallest uint8": 128,
    "largest uint8": 255,
    "smallest uint16": 256,
    "largest uint16": 65535,
    "smallest uint32": 65536,
    "2^31 - 1": 2**31 - 1,
    "2^31": 2**31,
    "2^32 - 1, the largest integer": 2**32 - 1,
    "2^32 is a double": 2**32,
    "2^53 - 1": 2**53 - 1,
    "2^53": 2**53,
    "10^21": 10**21,
    "-1": -1,
    "smallest negative fixint": -32,
    "largest int8": -33,
    "smallest int8": -128,
    "largest int16": -129,
    "smallest int16": -32768,
    "largest int32": -32769,
    "-2^31, the smallest integer": -(2**31),
    "-2^31 - 1 is a double": -(2**31) - 1,
    "-2^53": -(2**53),
    "1.5": 1.5,
    "0.1": 0.1,
    "-0.1": -0.1,
    "pi": math.pi,
    "largest double": 1.7976931348623157e308,
    "smallest normal double": 2.2250738585072014e-308,
    "smallest double": 5e-324,
    "empty string": "",
    "one letter": "a",
    "largest fixstr": "x" * 31,
    "smallest str8": "x" * 32,
    "largest str8": "x" * 255,
    "smallest str16": "x" * 256,
    "U+0000": "\u0000",
    "two bytes per character, longer than its characters": "é" * 16,
    "three bytes per character": "日本語",
    "str8 by its bytes, fixstr by its characters": "日" * 11,
    "str16 by its bytes, str8 by its characters": "日" * 86,
    "emoji": "😀",
    "emoji of several code points": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "long with emoji": "😀 and text " * 20,
    "byte order mark is a character": "\ufeffa",
    "byte order mark before a long string": "\ufeff" + "a" * 100,
    "last code point": "\U0010ffff",
    "noncharacter U+FFFF, and U+FFFD": "\uffff\ufffd",
    "empty array": [],
    "empty object": {},
    "array of empties": [[], {}, "", None, 0, False],
    "largest fixarray": list(range(15)),
    "smallest array16": list(range(16)),
    "object": {"id": "o-20391", "count": 3, "price": 12.5, "paid": True, "note": None, "to": {"zip": 1234}},
    "largest fixmap": {f"k{index}": index for index in range(15)},
    "smallest map16": {f"k{index}": index for index in range(16)},
    "empty key": {"": 1},
    "keys that look like numbers, in ascending order": {"0": "a", "1": "b", "10": "c"},
    "emoji as key": {"😀": "😀"},
    "long key": {"k" * 300: 1},
    "__proto__ is an ordinary key": {"__proto__": {"polluted": True}, "a": 1},
    "__proto__ with null": {"__proto__": None},
    "names of Object.prototype": {"constructor": 1, "toString": 2, "hasOwnProperty": 3, "valueOf": None},
    "depth 64, arrays": nested(64),
    "depth 64, arrays with a number inside": nested(64, [1]),
    "depth 64, maps": nested_maps(64),
    "no arguments": [],
    "one argument": ["world"],
}

# By hand: head bytes as the MessagePack specification gives them.
wider = [
    ("5 as uint8", "cc05", 5),
    ("5 as uint16", "cd0005", 5),
    ("5 as uint32", "ce00000005", 5),
    ("5 as uint64", "cf0000000000000005", 5),
    ("5 as int8", "d005", 5),
    ("5 as int16", "d10005", 5),
    ("5 as int32", "d200000005", 5),
    ("5 as int64", "d30000000000000005", 5),
    ("-1 as int8", "d0ff", -1),
    ("-1 as int16", "d1ffff", -1),
    ("-1 as int32", "d2ffffffff", -1),
    ("-1 as int64", "d3ffffffffffffffff", -1),
    ("2^32 as uint64", "cf0000000100000000", 2**32),
    ("2^53 as uint64", "cf0020000000000000", 2**53),
    ("2^53 + 1 as uint64 is the nearest double", "cf0020000000000001", float(2**53 + 1)),
    ("2^53 + 3 as uint64 is the nearest double", "cf0020000000000003", float(2**53 + 3)),
    ("largest uint64 is the nearest double", "cfffffffffffffffff", float(2**64 - 1)),
    ("smallest int64", "d38000000000000000", float(-(2**63))),
    ("largest int64 is the nearest double", "d37fffffffffffffff", float(2**63 - 1)),
    ("-2^53 - 1 as int64 is the nearest double", "d3ffdfffffffffffff", float(-(2**53) - 1)),
    ("1.5 as float32", "ca3fc00000", 1.5),
    ("0.1 as float32 is that float's value", "ca3dcccccd", struct.unpack(">f", bytes.fromhex("3dcccccd"))[0]),
    ("minus zero as float32", "ca80000000", -0.0),
    ("minus zero as float64", "cb8000000000000000", -0.0),
    ("3 as float64", "cb4008000000000000", 3),
    ("empty string as str8", "d900", ""),
    ("a as str8", "d90161", "a"),
    ("a as str16", "da000161", "a"),
    ("a as str32", "db0000000161", "a"),
    ("empty array as array16", "dc0000", []),
    ("empty array as array32", "dd00000000", []),
    ("[1] as array16", "dc000101", [1]),
    ("[1] as array32", "dd0000000101", [1]),
    ("empty map as map16", "de0000", {}),
    ("empty map as map32", "df00000000", {}),
    ("map as map16 with its key as str8", "de0001d9016101", {"a": 1}),
    ("map as map32 with its key as str16", "df00000001da00016101", {"a": 1}),
    ("map with its key as str32", "81db0000000161c3", {"a": True}),
    ("__proto__ as str8", "81d9095f5f70726f746f5f5f01", {"__proto__": 1}),
]


def same(left, right):
    """Equal, with -0 apart from 0 and integers equal to their doubles."""
    return json.dumps(doubles(left)) == json.dumps(doubles(right))


values = []
for name, value in canonical.items():
    packed = msgpack.packb(doubles(value))
    assert same(msgpack.unpackb(packed), value), name
    values.append({"name": name, "hex": packed.hex(), "value": value, "canonical": True})
for name, text, value in wider:
    unpacked = msgpack.unpackb(bytes.fromhex(text))
    assert same(float(unpacked) if isinstance(unpacked, int) else unpacked, value), name
    values.append({"name": name, "hex": text, "value": value, "canonical": False})

write(
    "values-valid.json",
    {
        "source": "make.py: hex by Python's msgpack.packb, or by hand after the MessagePack specification and then read "
        "back by msgpack.unpackb. canonical: an encoder gives exactly these bytes; the others it only has to accept.",
        "values": values,
    },
)


def invalid(name, text, offset):
    return {"why": name, "hex": text if isinstance(text, str) else text.hex(), "offset": offset}


def packed(value):
    return msgpack.packb(value, use_bin_type=True)


def string(raw):
    """A str of any bytes, valid or not."""
    if len(raw) < 32:
        return bytes([0xA0 | len(raw)]) + raw
    return bytes([0xD9, len(raw)]) + raw


bad_utf8 = {
    "a byte that UTF-8 never has": b"\xff",
    "a continuation byte alone": b"a\x80b",
    "a character cut short at the end": "é".encode()[:1],
    "an emoji cut short": "😀".encode()[:3],
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates, as CESU-8 writes an emoji": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond the last code point": b"\xf4\x90\x80\x80",
}
for raw in bad_utf8.values():
    try:
        raw.decode("utf-8")
        raise AssertionError(raw)
    except UnicodeDecodeError:
        pass

nan32, inf32, minus_inf32 = (struct.pack(">f", value) for value in (math.nan, math.inf, -math.inf))
nan64, inf64, minus_inf64 = (struct.pack(">d", value) for value in (math.nan, math.inf, -math.inf))
sixteen = b"".join(packed(f"k{index}") + b"\x01" for index in range(16))

refused = [
    # The end
    invalid("no bytes at all", "", 0),
    invalid("bytes after the value", "c0c0", 1),
    invalid("a byte after an array", "900a", 1),
    invalid("a whole second value", packed([1]) + packed("a"), 2),
    # Cut short
    invalid("an array of one without its element", "91", 0),
    invalid("an array of two with one element", "9201", 0),
    invalid("an array of two that lacks the second", "929101", None),
    invalid("a map of one without its entry", "81", 0),
    invalid("a map of one with its key only", "81a161", 3),
    invalid("a map of two with one entry", "82a16101", None),
    invalid("uint8 without its byte", "cc", 0),
    invalid("uint16 cut", "cd01", 0),
    invalid("uint32 cut", "ce010203", 0),
    invalid("uint64 cut", "cf01020304050607", 0),
    invalid("int8 without its byte", "d0", 0),
    invalid("int16 cut", "d101", 0),
    invalid("int32 cut", "d2010203", 0),
    invalid("int64 cut", "d301020304050607", 0),
    invalid("float32 cut", "ca3fc000", 0),
    invalid("float64 cut", "cb3ff80000000000", 0),
    invalid("fixstr cut", "a361", 0),
    invalid("str8 without its length", "d9", 0),
    invalid("str8 cut", "d90261", 0),
    invalid("str16 with half its length", "da00", 0),
    invalid("str16 cut", "da000261", 0),
    invalid("str32 with half its length", "db0000", 0),
    invalid("str32 cut", "db0000000261", 0),
    invalid("array16 with half its length", "dc00", 0),
    invalid("array32 with half its length", "dd0000", 0),
    invalid("map16 with half its length", "de00", 0),
    invalid("map32 with half its length", "df0000", 0),
    invalid("a key cut short", "81a361", 1),
    # Claims that the bytes cannot hold
    invalid("an array of 2^32 - 1 in five bytes", "ddffffffff", 0),
    invalid("a map of 2^32 - 1 in five bytes", "dfffffffff", 0),
    invalid("a string of 2^32 - 1 in five bytes", "dbffffffff", 0),
    invalid("an array of 65535 in ten bytes", "dcffff" + "c0" * 7, 0),
    invalid("a map whose entries cannot fit", "83a161c0a162", 0),
    invalid("arrays that each claim all that is left", "dd00000019" * 5 + "c0" * 5, 5),
    # Types that JSON has not
    invalid("bin8", "c40101", 0),
    invalid("bin16", "c5000101", 0),
    invalid("bin32", "c60000000101", 0),
    invalid("empty bin8", "c400", 0),
    invalid("bytes among arguments", packed(["a", b"\x01"]), 3),
    invalid("bytes in an object", packed({"a": b"\x01"}), 3),
    invalid("0xc1, which is never used", "c1", 0),
    invalid("0xc1 inside an array", "91c1", 1),
    invalid("fixext1", packed(msgpack.ExtType(1, b"a")), 0),
    invalid("fixext2", packed(msgpack.ExtType(1, b"ab")), 0),
    invalid("fixext4", packed(msgpack.ExtType(1, b"abcd")), 0),
    invalid("fixext8", packed(msgpack.ExtType(1, b"abcdefgh")), 0),
    invalid("fixext16", packed(msgpack.ExtType(1, b"abcdefghijklmnop")), 0),
    invalid("ext8", packed(msgpack.ExtType(1, b"abc")), 0),
    invalid("ext16", packed(msgpack.ExtType(1, b"a" * 256)), 0),
    invalid("ext32", packed(msgpack.ExtType(1, b"a" * 65536))[:5], 0),
    invalid("a timestamp", packed(msgpack.Timestamp(1700000000)), 0),
    invalid("msgpackr's undefined", "d40000", 0),
    invalid("msgpackr's record definition", "d47240" + "91a161" + "01", 0),
    invalid("an extension in an array", "91d40100", 1),
    invalid("NaN as float32", b"\xca" + nan32, 0),
    invalid("infinity as float32", b"\xca" + inf32, 0),
    invalid("minus infinity as float32", b"\xca" + minus_inf32, 0),
    invalid("NaN as float64", b"\xcb" + nan64, 0),
    invalid("infinity as float64", b"\xcb" + inf64, 0),
    invalid("minus infinity as float64", b"\xcb" + minus_inf64, 0),
    # Keys
    invalid("an integer as key", packed({1: "a"}), 1),
    invalid("nil as key", packed({None: "a"}), 1),
    invalid("a boolean as key", packed({True: "a"}), 1),
    invalid("a double as key", packed({1.5: "a"}), 1),
    invalid("an array as key", "819001", 1),
    invalid("bytes as key", packed({b"a": 1}), 1),
    invalid("an extension as key", "81d4010001", 1),
    invalid("the same key twice", "82a16101a16102", 0),
    invalid("the same key twice, with the same value", "82a16101a16101", 0),
    invalid("the empty key twice", "82a001a002", 0),
    invalid("the same key twice, once as str8", "82a16101d9016102", 0),
    invalid("the same key twice, not adjacent", "83a16101a16202a16103", 0),
    invalid("__proto__ twice", b"\x82" + packed("__proto__") + b"\x80" + packed("__proto__") + b"\x80", 0),
    invalid("constructor twice", b"\x82" + packed("constructor") + b"\x01" + packed("constructor") + b"\x01", 0),
    invalid("the same emoji twice", b"\x82" + packed("😀") + b"\x01" + packed("😀") + b"\x01", 0),
    invalid("the first of 17 keys again at the end", b"\xde\x00\x11" + sixteen + packed("k0") + b"\x01", 0),
    invalid("the same key twice in an inner map", "9281a1610182a16101a16102", 5),
    # UTF-8
    *[invalid(f"{name}, in a short string", string(raw), 0) for name, raw in bad_utf8.items()],
    *[invalid(f"{name}, in a long string", string(b"x" * 40 + raw), 0) for name, raw in bad_utf8.items()],
    *[invalid(f"{name}, in a key", b"\x81" + string(raw) + b"\x01", 1) for name, raw in bad_utf8.items()],
    # Depth
    invalid("65 arrays", packed(nested(65)), 64),
    invalid("65 maps", packed(nested_maps(65)), 64 * 3),
    invalid("64 arrays around a map", b"\x91" * 64 + b"\x80", 64),
    invalid("1,000 arrays", b"\x91" * 999 + b"\x90", 64),
    invalid("65 arrays, the last cut off", b"\x91" * 65, 64),
]
write(
    "values-invalid.json",
    {
        "source": "make.py: bytes by hand after the MessagePack specification, some by Python's msgpack. offset: where "
        "the item at fault begins: the value that is cut, claims too much, is of a wrong type or too deep; the map "
        "whose keys repeat; the first byte after the value; null where it depends on when the end is noticed.",
        "values": refused,
    },
)


# URLs ---------------------------------------------------------------------------------------------------------------


def url(text, service, method, resource=None, environment=None, port=None):
    authority = "" if environment is None else f"lever://{environment}" + ("" if port is None else f":{port}")
    between = "" if resource is None else "/" + urllib.parse.quote(resource, safe="/")
    return {
        "text": text,
        "environment": environment,
        "port": port,
        "service": service,
        "resource": resource,
        "method": method,
        "canonical": f"{authority}/{service}{between}/{method}",
    }


label63 = "a" * 63
method128 = "m" * 128
valid_urls = [
    url("lever://dev/hello/sayHello", "hello", "sayHello", environment="dev"),
    url("/hello/sayHello", "hello", "sayHello"),
    url("lever://dev:3837/hello/sayHello", "hello", "sayHello", environment="dev", port=3837),
    url("lever://dev:1/a/b", "a", "b", environment="dev", port=1),
    url("lever://dev:65535/a/r/b", "a", "b", "r", environment="dev", port=65535),
    url("LEVER://dev/hello/sayHello", "hello", "sayHello", environment="dev"),
    url("lever://dev/chat/room-7/history", "chat", "history", "room-7", environment="dev"),
    url("lever://dev/chat/room-7//joinChan", "chat", "joinChan", "room-7/", environment="dev"),
    url("/chat//room-7/joinChan", "chat", "joinChan", "/room-7"),
    url("/chat///m", "chat", "m", "/"),
    url("/chat////m", "chat", "m", "//"),
    url("/chat/a/b/c/m", "chat", "m", "a/b/c"),
    url("/chat/%2F/m", "chat", "m", "/"),
    url("/chat/a%2fb/m", "chat", "m", "a/b"),
    url("/chat/a%2F/m", "chat", "m", "a/"),
    url("/chat/%61/m", "chat", "m", "a"),
    url("/chat/a%20b/m", "chat", "m", "a b"),
    url("/chat/a+b/m", "chat", "m", "a+b"),
    url("/chat/100%25/m", "chat", "m", "100%"),
    url("/chat/%2525/m", "chat", "m", "%25"),
    url("/chat/%3F%23/m", "chat", "m", "?#"),
    url("/chat/!$&'()*+,;=:@/m", "chat", "m", "!$&'()*+,;=:@"),
    url("/chat/-._~/m", "chat", "m", "-._~"),
    url("/chat/%2d%2E%5f%7e/m", "chat", "m", "-._~"),
    url("/chat/caf%C3%A9/m", "chat", "m", "café"),
    url("/chat/caf%c3%a9/m", "chat", "m", "café"),
    url("/chat/café/m", "chat", "m", "café"),
    url("/chat/cafe%CC%81/m", "chat", "m", "cafe\u0301"),
    url("/chat/😀/m", "chat", "m", "😀"),
    url("/chat/%F0%9F%98%80/m", "chat", "m", "😀"),
    url("/chat/日本/m", "chat", "m", "日本"),
    url("/chat/%00/m", "chat", "m", "\u0000"),
    url("/chat/%0A/m", "chat", "m", "\n"),
    url("/chat/%EF%BB%BFa/m", "chat", "m", "\ufeffa"),
    url("/chat/%EF%BF%BD/m", "chat", "m", "\ufffd"),
    url("/chat/%F4%8F%BF%BF/m", "chat", "m", "\U0010ffff"),
    url("/chat/\u00a0/m", "chat", "m", "\u00a0"),
    url("/chat/../m", "chat", "m", ".."),
    url("/chat/./m", "chat", "m", "."),
    url("/chat/a/../b/m", "chat", "m", "a/../b"),
    url("/chat/%2e%2e/m", "chat", "m", ".."),
    url("/chat/__proto__/m", "chat", "m", "__proto__"),
    url("/chat/lever://dev/m", "chat", "m", "lever://dev"),
    url("/chat/%5C%22%3C%3E%5E%60%7B%7C%7D/m", "chat", "m", "\\\"<>^`{|}"),
    url("/chat/" + "r" * 1024 + "/m", "chat", "m", "r" * 1024),
    url("/chat/" + "%F0%9F%98%80" * 256 + "/m", "chat", "m", "😀" * 256),
    url(
        f"lever://{label63}:65535/{label63}/" + "%20" * 1024 + f"/{method128}",
        label63,
        method128,
        " " * 1024,
        environment=label63,
        port=65535,
    ),
    url("/1/m", "1", "m"),
    url("/a-b-1/m", "a-b-1", "m"),
    url("/a--b/m", "a--b", "m"),
    url("lever://0/0/_", "0", "_", environment="0"),
    url("/a/$", "a", "$"),
    url("/a/_private", "a", "_private"),
    url("/a/chan", "a", "chan"),
    url("/a/constructor", "a", "constructor"),
    url("/a/m_1$", "a", "m_1$"),
]


def bad(text, part, why):
    return {"text": text, "part": part, "why": why}


invalid_urls = [
    bad("", "scheme", "empty"),
    bad("hello/sayHello", "scheme", "neither lever:// nor a path from /"),
    bad("lever:/dev/hello/m", "scheme", "one slash"),
    bad("lever:dev/hello/m", "scheme", "no slash"),
    bad("lever//dev/hello/m", "scheme", "no colon"),
    bad("http://dev/hello/m", "scheme", "another scheme"),
    bad(" lever://dev/hello/m", "scheme", "a space before"),
    bad("/" + "a" * 4096, "url", "longer than 4,096 characters"),
    bad("lever:///hello/m", "environment", "empty"),
    bad("lever://", "environment", "empty, and nothing after"),
    bad("lever://Dev/hello/m", "environment", "upper case"),
    bad("lever://-dev/hello/m", "environment", "begins with -"),
    bad("lever://dev-/hello/m", "environment", "ends with -"),
    bad("lever://d_v/hello/m", "environment", "underscore"),
    bad("lever://dev.local/hello/m", "environment", "a dot"),
    bad("lever://user@dev/hello/m", "environment", "user information"),
    bad("lever://[::1]/hello/m", "environment", "an IP address in brackets"),
    bad("lever://d%65v/hello/m", "environment", "percent-encoded"),
    bad("lever://dév/hello/m", "environment", "not ASCII"),
    bad("lever://" + "a" * 64 + "/hello/m", "environment", "64 characters"),
    bad("lever://:3837/hello/m", "environment", "empty before a port"),
    bad("lever://dev:/hello/m", "port", "empty"),
    bad("lever://dev:0/hello/m", "port", "zero"),
    bad("lever://dev:65536/hello/m", "port", "too large"),
    bad("lever://dev:99999999999999999999/hello/m", "port", "far too large"),
    bad("lever://dev:03837/hello/m", "port", "a leading zero"),
    bad("lever://dev:-1/hello/m", "port", "negative"),
    bad("lever://dev:+1/hello/m", "port", "a sign"),
    bad("lever://dev:1e3/hello/m", "port", "not digits"),
    bad("lever://dev:80:80/hello/m", "port", "two"),
    bad("lever://dev: 80/hello/m", "port", "a space"),
    bad("lever://dev", "service", "missing"),
    bad("lever://dev/", "service", "empty"),
    bad("/", "service", "empty"),
    bad("//m", "service", "empty"),
    bad("//hello/m", "service", "empty before a slash"),
    bad("/Hello/m", "service", "upper case"),
    bad("/-hello/m", "service", "begins with -"),
    bad("/hello-/m", "service", "ends with -"),
    bad("/he_llo/m", "service", "underscore"),
    bad("/he.llo/m", "service", "a dot"),
    bad("/he%6Clo/m", "service", "percent-encoded"),
    bad("/héllo/m", "service", "not ASCII"),
    bad("/" + "a" * 64 + "/m", "service", "64 characters"),
    bad("/hello", "method", "missing"),
    bad("lever://dev/hello", "method", "missing"),
    bad("/hello/", "method", "empty"),
    bad("/chat/room-7/", "method", "empty after a resource"),
    bad("/hello/1m", "method", "begins with a digit"),
    bad("/hello/say-hello", "method", "a hyphen"),
    bad("/hello/say.hello", "method", "a dot"),
    bad("/hello/say%48ello", "method", "percent-encoded"),
    bad("/hello/sayHelló", "method", "not ASCII"),
    bad("/hello/m ", "method", "a space after"),
    bad("/hello/m\n", "method", "a line feed after"),
    bad("/hello/" + "m" * 129, "method", "129 characters"),
    bad("/chat//m", "resource", "empty"),
    bad("lever://dev/chat//m", "resource", "empty"),
    bad("/chat/a b/m", "resource", "an unescaped space"),
    bad("/chat/a\tb/m", "resource", "an unescaped tab"),
    bad("/chat/\u0000/m", "resource", "an unescaped NUL"),
    bad("/chat/a\\b/m", "resource", "an unescaped backslash"),
    bad("/chat/\"/m", "resource", "an unescaped quotation mark"),
    bad("/chat/<a>/m", "resource", "unescaped angle brackets"),
    bad("/chat/{a}/m", "resource", "unescaped braces"),
    bad("/chat/[a]/m", "resource", "unescaped brackets"),
    bad("/chat/\u007f/m", "resource", "an unescaped DEL"),
    bad("/chat/%/m", "resource", "a percent sign alone"),
    bad("/chat/%4/m", "resource", "one hex digit"),
    bad("/chat/%zz/m", "resource", "no hex digits"),
    bad("/chat/100%/m", "resource", "a percent sign at the end"),
    bad("/chat/%FF/m", "resource", "a byte that UTF-8 never has"),
    bad("/chat/%C3/m", "resource", "a character cut short"),
    bad("/chat/%C3x/m", "resource", "a character cut short before another"),
    bad("/chat/%80/m", "resource", "a continuation byte alone"),
    bad("/chat/%C0%AF/m", "resource", "an overlong slash"),
    bad("/chat/%ED%A0%80/m", "resource", "an escaped surrogate"),
    bad("/chat/%F4%90%80%80/m", "resource", "beyond the last code point"),
    bad("/chat/%u0041/m", "resource", "a %u escape"),
    bad("/chat/\ud800/m", "resource", "a lone surrogate"),
    bad("/chat/\udc00\ud800/m", "resource", "surrogates in the wrong order"),
    bad("/chat/" + "r" * 1025 + "/m", "resource", "1,025 bytes"),
    bad("/chat/" + "é" * 513 + "/m", "resource", "1,026 bytes in 513 characters"),
    bad("/hello/m?x=1", "query", "a query"),
    bad("/hello/m?", "query", "an empty query"),
    bad("/chat/a?b/m", "query", "an unescaped question mark"),
    bad("/hello/m#x", "fragment", "a fragment"),
    bad("/hello/m#", "fragment", "an empty fragment"),
    bad("/chat/a#b/m", "fragment", "an unescaped number sign"),
]
write(
    "urls.json",
    {
        "source": "make.py: parts by hand after docs/protocol.md, canonical by Python's urllib.parse.quote(resource, "
        'safe="/"). Ports are legal here. Invalid ones name the part at fault.',
        "valid": valid_urls,
        "invalid": invalid_urls,
    },
)


# Slots --------------------------------------------------------------------------------------------------------------

slot_counts = [1, 2, 3, 7, 16, 256, 1000, 4096]
resources = [
    "a",
    "ab",
    "abc",
    "abcd",
    "room-7",
    "room-7/",
    "/",
    "a/b/c",
    "fifteen bytes..",
    "sixteen bytes...",
    "seventeen bytes..",
    "thirty-one bytes are in this on",
    "thirty-two bytes are in this one",
    "thirty-three bytes are in this on",
    "Nobody inspects the spammish repetition",
    "é",
    "日本語",
    "😀",
    "👩‍👩‍👧‍👦",
    "\u0000",
    "\ufeffa",
    "__proto__",
    "%20",
    "r" * 1024,
    "😀" * 256,
    "".join(chr(0x21 + index % 94) for index in range(1023)),
    *[f"user-{index}" for index in range(20)],
]
write(
    "slots.json",
    {
        "source": "make.py: Python's xxhash.xxh32_intdigest(resource as UTF-8, seed=0); each slot is that modulo the "
        "count beside it.",
        "resources": [
            {
                "resource": resource,
                "xxHash32": (digest := xxhash.xxh32_intdigest(resource.encode(), seed=0)),
                "slots": {str(count): digest % count for count in slot_counts},
            }
            for resource in resources
        ],
    },
)
