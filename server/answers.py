"""Answers that follow from the index alone, kept compressed in memory: a build never changes, and neither do
its pages and records. An answer is known by its ETag, which names the build, the address and the templates.
"""

import gzip
import threading
import zlib
from collections import OrderedDict
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import Headers

GZIP_LEVEL = 5
"""a tenth larger than the smallest (9), in a third of the time"""
QUICK_LEVEL = 1
"""for a client that takes no compressed body, so that only the kept copy is compressed"""
SMALLEST = 500
"""bytes from which a body is sent compressed"""
OWN_BYTES = 400
"""about what an entry takes beside its body"""


class KeptAnswer(NamedTuple):
    """A body and its type."""

    media_type: str
    size: int
    packed: bytes
    """gzip"""

    def response(self, headers: dict[str, str], *, packed: bool) -> Response:
        """`packed`: the client takes gzip."""
        if not packed or self.size < SMALLEST:
            return Response(gzip.decompress(self.packed), media_type=self.media_type, headers=headers)
        headers = {**headers, "content-encoding": "gzip", "vary": "Accept-Encoding"}
        return Response(self.packed, media_type=self.media_type, headers=headers)


class Answers:
    """The answers asked for last, up to `most` bytes; 0 keeps none. For use from several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, KeptAnswer] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        return self._bytes

    def get(self, tag: str) -> KeptAnswer | None:
        with self._lock:
            found = self._kept.get(tag)
            if found is not None:
                self._kept.move_to_end(tag)
            return found

    def put(self, tag: str, answer: KeptAnswer) -> None:
        """Keep an answer, and forget the ones that were not asked for longest. One that is larger than a
        tenth of all is not kept.
        """
        if _size(answer) > self._most / 10:
            return
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = answer
                self._bytes += _size(answer)
            while self._bytes > self._most:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _size(oldest)

    def respond(self, request: Request, body: str, media_type: str, headers: dict[str, str]) -> Response:
        """A response with this body, which is kept under its ETag."""
        packed, raw = takes_gzip(request.headers), body.encode()
        level = GZIP_LEVEL if packed else QUICK_LEVEL
        answer = KeptAnswer(media_type, len(raw), zlib.compress(raw, level, wbits=31))
        self.put(headers["etag"], answer)
        if packed:
            return answer.response(headers, packed=True)
        return Response(raw, media_type=media_type, headers=headers)


def takes_gzip(headers: Headers) -> bool:
    return "gzip" in headers.get("accept-encoding", "")


def _size(answer: KeptAnswer) -> int:
    return len(answer.packed) + OWN_BYTES
