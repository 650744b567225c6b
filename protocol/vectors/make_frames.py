#!/usr/bin/env python3
"""Writes frames-valid.json and frames-invalid.json from docs/protocol.md.

An implementation of its own, which shares nothing with the TypeScript one. Needs the package msgpack of PyPI.
Run: python3 protocol/vectors/make_frames.py
"""

import json
import pathlib
import struct

import msgpack

HELLO, TARGET, OPEN, ACCEPT, REFUSE, REPLY, MESSAGE = 1, 2, 3, 4, 5, 6, 7
END, RESET, WINDOW, PING, GOAWAY, REGISTER, MOVE = 8, 9, 10, 11, 12, 13, 0x8E
MORE, BYTES, CHANNEL, ERROR, FAULT, CURSOR, ACK = 1, 2, 4, 4, 8, 16, 1


def value(v):
    return msgpack.packb(v, use_bin_type=True)


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    n = len(payload) if length is None else length
    return bytes([n >> 16, n >> 8 & 255, n & 255, kind, flags]) + struct.pack(">I", stream) + payload


DEFAULT_HELLO = {
    "versionMin": 1,
    "versionMax": 1,
    "streamWindowBytes": 131072,
    "sessionWindowBytes": 1048576,
    "streamsMax": 100,
    "targetsMax": 16,
    "role": "client",
}


def hello(**changes):
    return {**DEFAULT_HELLO, **changes}


def hello_frame(**changes):
    return frame(HELLO, payload=value(hello(**changes)))


def field(key, data):
    return bytes([key]) + struct.pack(">H", len(data)) + data


def header(target=0, timeout=0, fields=b"", claimed=None):
    return struct.pack(">HIH", target, timeout, len(fields) if claimed is None else claimed) + fields


def inline(text):
    return header(fields=field(1, text.encode()))


def fault(reason, message, effect, **more):
    return {"reason": reason, "message": message, "effect": effect, **more}


# ------------------------------------------------------------------ valid: bytes <-> frames

valid = []


def case(name, *frames):
    """frames: (kind, flags, stream, payload, what the payload says)."""
    data = b"".join(frame(k, f, s, p) for k, f, s, p, _ in frames)
    valid.append(
        {
            "name": name,
            "bytes": data.hex(),
            "frames": [
                {"type": k, "flags": f, "stream": s, "payload": p.hex(), **({"says": says} if says is not None else {})}
                for k, f, s, p, says in frames
            ],
        }
    )


h = hello()
case("HELLO, the least", (HELLO, 0, 0, value(h), {"hello": h}))
h = hello(
    versionMax=7, streamWindowBytes=2**31 - 1, sessionWindowBytes=2**31 - 1, streamsMax=2**31 - 1, targetsMax=65535,
    role="agent", environment="dev", service="hello", instance="hello-1-a1b2", library="other/2.0",
)
case("HELLO, the most, newer than version 1", (HELLO, 0, 0, value(h), {"hello": {**h, "version": 1}}))
h = hello(role="app", environment=None)
case("HELLO with nil for an optional key", (HELLO, 0, 0, value(h), {"hello": {k: v for k, v in h.items() if v is not None}}))
h = hello(role="gateway")
case("HELLO with unknown keys", (HELLO, 0, 0, value({**h, "compression": ["zstd"], "x": {"y": 1}}), {"hello": h}))
case(
    "TARGET",
    (TARGET, 0, 0, b"\x00\x01dev/hello/sayHello", {"target": {"number": 1, "text": "dev/hello/sayHello"}}),
    (TARGET, 0, 0, b"\xff\xff/chat/joinChan", {"target": {"number": 65535, "text": "/chat/joinChan"}}),
)

args = value(["Ada"])
case(
    "the example of the specification",
    (OPEN, 0, 1, header(timeout=5000, fields=field(1, b"dev/hello/sayHello")) + args,
     {"open": {"target": 0, "timeoutMs": 5000, "fields": {"target": "dev/hello/sayHello"}, "args": args.hex()}}),
)
case(
    "OPEN by number, no fields, no limit of time",
    (OPEN, 0, 1, header(target=258) + args, {"open": {"target": 258, "timeoutMs": 0, "fields": {}, "args": args.hex()}}),
)
case(
    "OPEN with bytes, empty",
    (OPEN, BYTES, 3, header(target=1), {"open": {"target": 1, "timeoutMs": 0, "fields": {}, "args": ""}}),
)
case(
    "OPEN of a channel on the largest stream, the longest time",
    (OPEN, CHANNEL, 0xFFFFFFFF, header(target=1, timeout=0xFFFFFFFF) + value([]),
     {"open": {"target": 1, "timeoutMs": 0xFFFFFFFF, "fields": {}, "args": "90"}}),
)
fields = (
    field(1, b"dev/chat/say") + field(2, "r\u00e4um/7".encode()) + field(3, b"order-1")
    + field(0x84, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") + field(0x85, b"a=b")
    + field(0x86, value({"environment": "dev", "service": "web", "outside": False})) + field(0x87, value({"k": "v", "__proto__": "p"}))
)
case(
    "OPEN with every field",
    (OPEN, 0, 1, header(target=0, timeout=1, fields=fields) + args,
     {"open": {"target": 0, "timeoutMs": 1, "args": args.hex(), "fields": {
         "target": "dev/chat/say", "resource": "r\u00e4um/7", "token": "order-1",
         "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b",
         "caller": {"environment": "dev", "service": "web", "outside": False}, "metadata": {"k": "v", "__proto__": "p"}}}}),
)
u48 = lambda n: struct.pack(">Q", n)[2:]
case(
    "OPEN of a resource as agents send it, and as an app does",
    (OPEN, 0, 1, header(target=1, fields=field(2, b"room-7") + field(4, u48(1764000000123)) + field(0x88, b"\x00") + field(0x8A, u48(2**48 - 1))),
     {"open": {"target": 1, "timeoutMs": 0, "fields": {"resource": "room-7", "epoch": 1764000000123, "chain": "00", "tokenTime": 2**48 - 1}, "args": ""}}),
    (OPEN, CHANNEL, 3, header(target=1, fields=field(2, b"room-7") + field(5, struct.pack(">I", 0xFFFFFFFE)) + field(0x89, "17\u00e4".encode())),
     {"open": {"target": 1, "timeoutMs": 0, "fields": {"resource": "room-7", "parent": 0xFFFFFFFE, "cursor": "17\u00e4"}, "args": ""}}),
    (OPEN, 0, 5, header(target=1, fields=field(6, "r\u00e4um".encode())), {"open": {"target": 1, "timeoutMs": 0, "fields": {"hook": "r\u00e4um"}, "args": ""}}),
)
case(
    "OPEN with a field that may be skipped",
    (OPEN, 0, 1, header(target=1, fields=field(0xF0, b"later") + field(2, b"r")) + args,
     {"open": {"target": 1, "timeoutMs": 0, "fields": {"resource": "r"}, "args": args.hex()}}),
)
case(
    "OPEN with the longest resource and token",
    (OPEN, 0, 1, header(target=1, fields=field(2, b"r" * 1024) + field(3, b"t" * 128)),
     {"open": {"target": 1, "timeoutMs": 0, "fields": {"resource": "r" * 1024, "token": "t" * 128}, "args": ""}}),
)
case(
    "a call in fragments and its reply in fragments, one of them empty",
    (OPEN, MORE, 1, header(target=1) + args[:2], {"open": {"target": 1, "timeoutMs": 0, "fields": {}, "args": args[:2].hex()}}),
    (OPEN, MORE, 1, b"", None),
    (OPEN, 0, 1, args[2:], None),
    (REPLY, MORE, 2, b"\x00\x2a" + value("result")[:3], {"reply": {"load": 42, "item": value("result")[:3].hex()}}),
    (REPLY, 0, 2, value("result")[3:], None),
)
case(
    "replies: value, bytes, error, error in bytes, fault",
    (REPLY, 0, 2, b"\x00\x00" + value(None), {"reply": {"load": 0, "item": "c0"}}),
    (REPLY, BYTES, 4, b"\xff\xff\x01\x02", {"reply": {"load": 65535, "item": "0102"}}),
    (REPLY, ERROR, 6, b"\x00\x01" + value({"error": "TOO_LONG"}), {"reply": {"load": 1, "item": value({"error": "TOO_LONG"}).hex()}}),
    (REPLY, ERROR | BYTES, 8, b"\x00\x01\x09", {"reply": {"load": 1, "item": "09"}}),
    (REPLY, FAULT, 10, b"\x00\x01" + value(fault("METHOD_THREW", "m", "ran")), {"reply": {"load": 1, "item": value(fault("METHOD_THREW", "m", "ran")).hex()}}),
)
f = fault("OVERLOADED", "too many", "none", details={"limit": "streamsMax", "streamsMax": 100})
g = fault("CANCELLED", "cancelled by its caller", "unknown")
case(
    "REFUSE, RESET",
    (REFUSE, 0, 1, value(f), {"fault": f}),
    (RESET, 0, 3, value(g), {"fault": g}),
)
u = fault("NOT_YET_INVENTED", "of a newer version", "ran", more=1)
case(
    "a fault with a reason and a key that nobody knows yet",
    (RESET, 0, 3, value(u), {"fault": {"reason": "INTERNAL", "message": "of a newer version", "effect": "ran", "details": {"unknownReason": "NOT_YET_INVENTED"}}}),
)
case(
    "a channel: ACCEPT, messages, ends",
    (ACCEPT, 0, 1, b"\x00\x07", {"accept": {"load": 7}}),
    (MESSAGE, 0, 1, value({"text": "h\u00e9"}), None),
    (MESSAGE, BYTES, 1, b"\x00\xff", None),
    (MESSAGE, BYTES | MORE, 1, b"\x01", None),
    (MESSAGE, BYTES, 1, b"\x02", None),
    (MESSAGE, CURSOR, 1, b"\x0217" + value("with a cursor"), None),
    (MOVE, 0, 1, b"", None),
    (END, 0, 1, b"", None),
    (END, ERROR, 3, value(1), None),
    (END, ERROR | BYTES, 5, b"\x01", None),
    (END, FAULT, 7, value(g), None),
)
case("ACCEPT with bytes that a later version may add", (ACCEPT, 0, 1, b"\x00\x07\x01", {"accept": {"load": 7}}))
case(
    "WINDOW",
    (WINDOW, 0, 0, b"\x00\x00\x00\x01", {"window": {"credit": 1}}),
    (WINDOW, 0, 5, b"\x7f\xff\xff\xff", {"window": {"credit": 0x7FFFFFFF}}),
)
case("PING and its answer", (PING, 0, 0, b"lever   ", None), (PING, ACK, 0, b"lever   ", None))
d = fault("DRAINING", "about to stop", "none")
case("GOAWAY", (GOAWAY, 0, 0, b"\x00\x00\x00\x05" + value(d), {"goaway": {"lastStream": 5, "fault": d}}))
r = {
    "methods": [{"name": "sayHello", "kind": "call"}, {"name": "talkChan", "kind": "channel"}, {"name": "chan", "kind": "channel"}],
    "resources": False, "library": "other", "version": "2.0",
}
case("REGISTER", (REGISTER, 0, 0, value(r), {"register": r}))
case(
    "the largest frame, and what follows it",
    (MESSAGE, BYTES, 1, bytes(i * 7 & 255 for i in range(32768)), None),
    (MESSAGE, 0, 1, b"\xc0", None),
)
case(
    "types that may be skipped",
    (0x80, 0, 0, b"", None),
    (0xFF, 255, 9, b"anything", None),
    (PING, 0, 0, bytes(8), None),
)

# ------------------------------------------------------------------ invalid: bytes -> what the receiver does

invalid = []


def bad(name, data, ends, reason, receiver="acceptor", opened=(), stream=None, start=True, role="client"):
    """`opened`: targets of the streams that the receiver has opened and sent before. `ends`: session, stream, nothing."""
    first = hello_frame(role=role) if start else b""
    invalid.append(
        {
            "name": name,
            "receiver": receiver,
            "opened": list(opened),
            "bytes": (first + data).hex(),
            "ends": ends,
            **({"reason": reason} if reason else {}),
            **({"stream": stream} if stream is not None else {}),
        }
    )


V, U = "PROTOCOL_VIOLATION", "VERSION_UNSUPPORTED"
CALL, TALK = "dev/test/echo", "dev/test/echoChan"
ping = frame(PING, payload=bytes(8))
a_fault = value(fault("CANCELLED", "", "unknown"))

# Frames
bad("a length above 32,768", frame(MESSAGE, 0, 1, length=32769), "session", V)
bad("the largest length of all", frame(0x80, length=0xFFFFFF), "session", V)
bad("an unknown type", frame(0x0E), "session", U)
bad("type 0", frame(0), "session", U)
bad("the last type without the high bit", frame(0x7F), "session", U)
bad("unknown types with the high bit are skipped", frame(0x80) + frame(0xFF, 255, 77, b"x"), "nothing", None)
bad("unknown flags are ignored", frame(PING, 0xFE, payload=bytes(8)) + frame(OPEN, 0xF8, 1, inline(CALL) + args), "nothing", None)
for kind, name, payload in ((TARGET, "TARGET", b"\x00\x01" + CALL.encode()), (PING, "PING", bytes(8)), (GOAWAY, "GOAWAY", bytes(4) + a_fault)):
    bad(f"{name} on a stream", frame(kind, 0, 1, payload), "session", V)

# MOVE
bad("MOVE on a call", frame(MOVE, 0, 1), "session", V, receiver="dialer", opened=[CALL], role="agent")
bad("MOVE from the opener", frame(OPEN, CHANNEL, 1, inline(TALK) + value([])) + frame(MOVE, 0, 1), "session", V)
bad("MOVE on a stream that was never opened", frame(MOVE, 0, 1), "session", V)
bad("MOVE on stream 0", frame(MOVE), "session", V)
bad("MOVE before ACCEPT is ignored", frame(MOVE, 0, 1), "nothing", None, receiver="dialer", opened=[TALK], role="agent")
bad("MOVE after END is ignored", frame(ACCEPT, 0, 1, b"\0\0") + frame(END, 0, 1) + frame(MOVE, 0, 1, b"more"), "nothing", None, receiver="dialer", opened=[TALK], role="agent")

# HELLO
bad("a frame before HELLO", ping + hello_frame(), "session", V, start=False)
bad("a skippable frame before HELLO", frame(0x80) + hello_frame(), "session", V, start=False)
bad("HTTP", b"GET / HTTP/1.1\r\nHost: lever\r\n\r\n", "session", V, start=False)
bad("a second HELLO", hello_frame(), "session", V)
bad("HELLO on a stream", frame(HELLO, 0, 1, value(hello())), "session", V, start=False)
bad("HELLO without payload", frame(HELLO), "session", V, start=False)
bad("HELLO that is an array", frame(HELLO, payload=value([1])), "session", V, start=False)
bad("HELLO that is no value", frame(HELLO, payload=b"\xc1"), "session", V, start=False)
bad("HELLO with bytes behind it", frame(HELLO, payload=value(hello()) + b"\xc0"), "session", V, start=False)
bad("HELLO above 4,096 bytes", frame(HELLO, payload=value(hello(more="x" * 4096))), "session", V, start=False)
for key, wrong in (
    ("versionMin", 0), ("versionMin", 65536), ("versionMax", 0), ("versionMax", 1.5), ("versionMax", "1"),
    ("streamWindowBytes", 131071), ("streamWindowBytes", 2**31), ("sessionWindowBytes", 1048575), ("sessionWindowBytes", 2**31),
    ("streamsMax", 99), ("streamsMax", 2**31), ("targetsMax", -1), ("targetsMax", 65536), ("targetsMax", None),
    ("role", "root"), ("role", 1), ("environment", 5), ("library", "x" * 257),
):
    shown = f"of {len(wrong)} characters" if isinstance(wrong, str) and len(wrong) > 20 else json.dumps(wrong)
    bad(f"HELLO with {key} {shown}", hello_frame(**{key: wrong}), "session", V, start=False)
for key in DEFAULT_HELLO:
    bad(f"HELLO without {key}", frame(HELLO, payload=value({k: v for k, v in DEFAULT_HELLO.items() if k != key})), "session", V, start=False)
bad("HELLO whose versionMin is above versionMax", hello_frame(versionMin=2), "session", V, start=False)
bad("HELLO of newer versions only", hello_frame(versionMin=2, versionMax=3), "session", U, start=False)
bad("HELLO with a key twice", frame(HELLO, payload=b"\x82" + (value("role") + value("app")) * 2), "session", V, start=False)

# TARGET
for name, payload in (
    ("number 0", b"\x00\x00" + CALL.encode()), ("a number above targetsMax", b"\xff\xff" + CALL.encode()),
    ("no payload", b""), ("no text", b"\x00\x01"), ("a text without slashes", b"\x00\x01echo"),
    ("a method that is none", b"\x00\x01dev/test/1st"), ("an upper-case service", b"\x00\x01dev/Test/echo"),
    ("text beyond ASCII", "\x00\x01dev/test/\u00e9cho".encode()), ("a text above 512 bytes", b"\x00\x01dev/test/" + b"e" * 504),
):
    bad(f"TARGET with {name}", frame(TARGET, payload=payload), "session", V)
named = frame(TARGET, payload=b"\x00\x01" + CALL.encode())
bad("TARGET with a number twice", named + named, "session", V)
bad("OPEN with a number that was not named", frame(OPEN, 0, 1, header(target=2) + args), "session", V)

# OPEN
bad("OPEN on stream 0", frame(OPEN, 0, 0, inline(CALL) + args), "session", V)
bad("OPEN by the dialer on an even stream", frame(OPEN, 0, 2, inline(CALL) + args), "session", V)
bad("OPEN by the acceptor on an odd stream", frame(OPEN, 0, 1, inline(CALL) + args), "session", V, receiver="dialer")
bad("OPEN shorter than the fixed part", frame(OPEN, 0, 1, bytes(7)), "session", V)
bad("OPEN whose fields are longer than the frame", frame(OPEN, 0, 1, header(target=1, claimed=6) + args), "session", V)
bad("OPEN without a target", frame(OPEN, 0, 1, header() + args), "session", V)
bad("OPEN whose Target is not the first field", frame(OPEN, 0, 1, header(fields=field(2, b"r") + field(1, CALL.encode())) + args), "session", V)
bad("OPEN whose Target is longer than the fields", frame(OPEN, 0, 1, header(fields=b"\x01\x00\xff" + CALL.encode()) + args), "session", V)
bad("OPEN with a text that is no target", frame(OPEN, 0, 1, inline("echo") + args), "session", V)
bad("OPEN again on a stream whose arguments are complete", frame(OPEN, CHANNEL, 1, inline(TALK) + value([])) + frame(OPEN, CHANNEL, 1, b""), "session", V)
bad("OPEN on an ended stream is ignored", frame(OPEN, 0, 5, inline("dev/test/none") + args) + frame(OPEN, 0, 5, args) + frame(OPEN, 0, 3, args) + ping, "stream", "METHOD_NOT_FOUND", stream=5)
bad("fields above 16,384 bytes", frame(OPEN, 0, 1, header(fields=field(1, CALL.encode()) + field(0x87, bytes(16384))) + args), "stream", "HEADER_TOO_LARGE", stream=1)
bad("an unknown field that may not be skipped", frame(OPEN, 0, 1, header(fields=field(1, CALL.encode()) + field(0x7F, b"")) + args), "stream", U, stream=1)
for name, more in (
    ("a resource of 0 bytes", field(2, b"")), ("a resource of 1,025 bytes", field(2, b"r" * 1025)), ("a token of 129 bytes", field(3, b"t" * 129)),
    ("a resource that is no UTF-8", field(2, b"\xff")), ("a field twice", field(2, b"r") * 2), ("a field that is cut", b"\x02\x00\x05r"),
    ("metadata that is an array", field(0x87, value(["k"]))), ("metadata that is no string", field(0x87, value({"k": 1}))),
    ("metadata that is no value", field(0x87, b"\xc1")), ("metadata too deep", field(0x87, b"\x81\xa1k" * 65 + b"\xc0")),
    ("a caller with a number as service", field(0x86, value({"service": 1}))), ("a caller that is nil", field(0x86, b"\xc0")),
):
    bad(f"{name}", frame(OPEN, 0, 1, header(fields=field(1, CALL.encode()) + more) + args), "stream", V, stream=1)
bad("a channel to a method that does not stream", frame(OPEN, CHANNEL, 1, inline(CALL) + args), "stream", "METHOD_KIND_MISMATCH", stream=1)
bad("a call of a streaming method", frame(OPEN, 0, 1, inline(TALK) + args), "stream", "METHOD_KIND_MISMATCH", stream=1)
for name, data in (("no value", b"\xc1"), ("empty", b""), ("no array", b"\xc0"), ("too deep", b"\x91" * 65 + b"\xc0"), ("with bytes inside", b"\x91\xc4\x01\x00"), ("an array longer than the frame", b"\xdd\xff\xff\xff\xff")):
    bad(f"arguments: {name}", frame(OPEN, 0, 1, inline(CALL) + data), "stream", "INVALID_VALUE_ENCODING", stream=1)

# Frames of streams, out of place
for kind, name, payload in ((ACCEPT, "ACCEPT", bytes(2)), (REFUSE, "REFUSE", a_fault), (REPLY, "REPLY", b"\0\0\xc0"), (MESSAGE, "MESSAGE", b"\xc0"), (END, "END", b""), (RESET, "RESET", a_fault), (WINDOW, "WINDOW", b"\0\0\0\1")):
    bad(f"{name} on a stream of the peer that was never opened", frame(kind, 0, 1, payload), "session", V)
    bad(f"{name} on a stream of this end that was never opened", frame(kind, 0, 2, payload), "session", V)
    if kind != WINDOW:
        bad(f"{name} on stream 0", frame(kind, 0, 0, payload), "session", V)
    if kind not in (WINDOW, RESET, REFUSE, REPLY):
        bad(f"{name} on a call of this end", frame(kind, 0, 1, payload), "session", V, receiver="dialer", opened=[CALL])
    if kind in (MESSAGE, END, REPLY):
        bad(f"{name} on a channel of this end before ACCEPT", frame(kind, 0, 1, payload), "session", V, receiver="dialer", opened=[TALK])
incomplete = frame(OPEN, MORE | CHANNEL, 1, inline(TALK))
for kind, name, payload in ((MESSAGE, "MESSAGE", b"\xc0"), (END, "END", b""), (ACCEPT, "ACCEPT", bytes(2)), (REFUSE, "REFUSE", a_fault), (REPLY, "REPLY", b"\0\0\xc0")):
    bad(f"{name} by the opener of a channel before ACCEPT", incomplete + frame(kind, 0, 1, payload), "session", V)
accept = frame(ACCEPT, 0, 1, bytes(2))
for name, data in (
    ("ACCEPT twice", accept + accept), ("an empty ACCEPT", frame(ACCEPT, 0, 1, b"")), ("REFUSE after ACCEPT", accept + frame(REFUSE, 0, 1, a_fault)),
    ("REPLY on a channel", accept + frame(REPLY, 0, 1, b"\0\0\xc0")), ("MESSAGE after END", accept + frame(END, 0, 1) + frame(MESSAGE, 0, 1, b"\xc0")),
    ("END twice", accept + frame(END, 0, 1) * 2), ("END within a message", accept + frame(MESSAGE, MORE, 1, b"\x91") + frame(END, 0, 1)),
    ("MESSAGE within an END", accept + frame(END, ERROR | MORE, 1, b"\x91") + frame(MESSAGE, 0, 1, b"\xc0")),
    ("a clean END with a payload", accept + frame(END, 0, 1, b"\xc0")), ("a clean END with More", accept + frame(END, MORE, 1)),
    ("an END that turns clean", accept + frame(END, ERROR | MORE, 1, b"\x91") + frame(END, 0, 1)), ("END with Error and Fault", accept + frame(END, ERROR | FAULT, 1, b"\xc0")),
    ("GOAWAY that excludes an accepted channel", accept + frame(GOAWAY, payload=bytes(4) + a_fault)),
):
    bad(name, data, "session", V, receiver="dialer", opened=[TALK])
for name, data in (
    ("a REPLY without load", frame(REPLY, 0, 1, b"\0")), ("REPLY with Error and Fault", frame(REPLY, ERROR | FAULT, 1, b"\0\0\xc0")),
    ("REFUSE within a REPLY", frame(REPLY, MORE, 1, b"\0\0\x91") + frame(REFUSE, 0, 1, a_fault)),
    ("GOAWAY that excludes a call that is being answered", frame(REPLY, MORE, 1, b"\0\0\x91") + frame(GOAWAY, payload=bytes(4) + a_fault)),
    ("OPEN on a stream of this end", frame(OPEN, 0, 1, inline(CALL) + args)),
    ("END within a REPLY", frame(REPLY, MORE, 1, b"\0\0\x91") + frame(END, ERROR, 1, b"\xc0")),
    ("MESSAGE within a REPLY", frame(REPLY, MORE, 1, b"\0\0\x91") + frame(MESSAGE, 0, 1, b"\xc0")),
    ("ACCEPT within a REPLY", frame(REPLY, MORE, 1, b"\0\0\x91") + frame(ACCEPT, 0, 1, bytes(2))),
):
    bad(name, data, "session", V, receiver="dialer", opened=[CALL])
bad("frames on a stream that has ended are ignored", frame(REFUSE, 0, 1, a_fault) + frame(REFUSE, 0, 1, a_fault) + frame(REPLY, 0, 1, b"") + frame(WINDOW, 0, 1, b"\0\0\0\1") + ping, "nothing", None, receiver="dialer", opened=[CALL])
bad("a fault that cannot be read", frame(REFUSE, 0, 1, b"\xc1"), "nothing", None, receiver="dialer", opened=[CALL])

# Flow control
bad("WINDOW without credit", frame(WINDOW, payload=bytes(4)), "session", V)
bad("WINDOW of 3 bytes", frame(WINDOW, payload=bytes(3)), "session", V)
bad("WINDOW of 5 bytes", frame(WINDOW, payload=b"\0\0\0\1\0"), "session", V)
bad("more credit than 2^31-1 for the session", frame(WINDOW, payload=b"\x7f\xff\xff\xff"), "session", V)
bad("more credit than 2^31-1 for a stream", frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff"), "session", V, receiver="dialer", opened=[TALK])

# Session frames
bad("PING of 7 bytes", frame(PING, payload=bytes(7)), "session", V)
bad("PING of 9 bytes", frame(PING, payload=bytes(9)), "session", V)
bad("201 PINGs at once", ping * 201, "session", V)
bad("200 PINGs at once", ping * 200, "nothing", None)
bad("an answer to no PING is ignored", frame(PING, ACK, payload=bytes(8)) * 300, "nothing", None)
bad("GOAWAY of 3 bytes", frame(GOAWAY, payload=bytes(3)), "session", V)
bad("GOAWAY with a fault that cannot be read", frame(GOAWAY, payload=bytes(4) + b"\xc1"), "nothing", None)
registration = value(r)
bad("REGISTER by a client", frame(REGISTER, payload=registration), "session", V)
bad("REGISTER on a stream", frame(REGISTER, 0, 1, registration), "session", V, role="app")
bad("REGISTER twice", frame(REGISTER, payload=registration) * 2, "session", V, role="app")
bad("REGISTER by an app", frame(REGISTER, payload=registration), "nothing", None, role="app")
bad("REGISTER to who is no agent", frame(REGISTER, payload=registration), "session", V, role="app", receiver="dialer")
method = {"name": "sayHello", "kind": "call"}
for name, wrong in (
    ("no map", []), ("no methods", {k: v for k, v in r.items() if k != "methods"}), ("a method twice", {**r, "methods": [method, method]}),
    ("the wrong kind", {**r, "methods": [{"name": "sayHello", "kind": "channel"}]}), ("a private method", {**r, "methods": [{"name": "_x", "kind": "call"}]}),
    ("the method then", {**r, "methods": [{"name": "then", "kind": "call"}]}), ("resources that is no boolean", {**r, "resources": 1}),
    ("a library of 65 characters", {**r, "library": "x" * 65}),
    ("1,025 methods", {**r, "methods": [{"name": f"m{i}", "kind": "call"} for i in range(1025)]}),
):
    bad(f"REGISTER with {name}", frame(REGISTER, payload=value(wrong)), "session", V, role="app")

here = pathlib.Path(__file__).parent
source = "protocol/vectors/make_frames.py, an implementation in Python of docs/protocol.md, with PyPI msgpack"
for name, cases in (("frames-valid.json", valid), ("frames-invalid.json", invalid)):
    lines = ",\n".join("    " + json.dumps(c, ensure_ascii=True) for c in cases)
    (here / name).write_text(f'{{\n  "from": {json.dumps(source)},\n  "cases": [\n{lines}\n  ]\n}}\n')
    print(name, len(cases))
