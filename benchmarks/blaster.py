"""A WebSocket server in a process of its own that answers any handshake with prepared frames as fast as they are taken.

`python -m benchmarks.blaster book|kline COUNT` prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import sys

import orjson

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
T0 = 1_790_771_340_000
END = b'{"result":null,"id":1}'  # the last frame: a reply, so that every client knows when it is done


def book_frames(count: int) -> list[bytes]:
    """Return bookTicker frames of BTCUSDT in combined form, 200 a second, prices as long as real ones."""
    frames = []
    for i in range(count):
        tick = i * 7 % 4_001
        data = {"e": "bookTicker", "u": 5_123_107_839_020 + i, "s": "BTCUSDT", "ps": "BTCUSDT"}
        data |= {"b": f"{61800.2 + tick / 10:.2f}", "B": f"{tick / 97:.3f}", "a": f"{61800.3 + tick / 10:.2f}"}
        data |= {"A": f"{tick / 89:.3f}", "T": T0 + i * 5, "E": T0 + i * 5, "st": 1}
        frames.append(orjson.dumps({"stream": "btcusdt@bookTicker", "data": data}))
    return frames


def kline_frames(count: int) -> list[bytes]:
    """Return kline_1m frames of BTCUSDT in combined form: each a newer state of one of many minutes."""
    frames = []
    for i in range(count):
        minute, part = divmod(i, 240)
        open_ms = T0 + minute * 60_000
        closed = part == 239
        price = 61_800 + i % 997 / 10
        k = {"t": open_ms, "T": open_ms + 59_999, "s": "BTCUSDT", "i": "1m", "f": i, "L": 8_132_505_633 + i}
        k |= {"o": "61800.00", "c": f"{price:.2f}", "h": "61950.00", "l": "61790.10", "v": f"{part * 0.7:.3f}"}
        k |= {"n": part * 9, "x": closed, "q": f"{part * 43260.1:.5f}", "V": f"{part * 0.3:.3f}", "Q": "1.0", "B": "0"}
        event_ms = open_ms + (60_200 if closed else part * 250)
        data = {"e": "kline", "E": event_ms, "s": "BTCUSDT", "k": k}
        frames.append(orjson.dumps({"stream": "btcusdt@kline_1m", "data": data}))
    return frames


def wrap(payload: bytes) -> bytes:
    """Return an unmasked text frame."""
    size = len(payload)
    head = struct.pack(">BB", 0x81, size) if size < 126 else struct.pack(">BBH", 0x81, 126, size)
    return head + payload


async def serve(kind: str, count: int) -> None:
    """Serve until standard input ends."""
    made = book_frames(count) if kind == "book" else kline_frames(count)
    blob = b"".join(map(wrap, [*made, END]))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.split(b"\r\n")]
        key = next(value.strip() for name, _, value in lines if name.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        writer.write(blob)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
