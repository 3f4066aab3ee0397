"""The application as the transport of a synchronous httpx client, without a port."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
from fastapi import FastAPI


class InProcess(httpx.BaseTransport):
    """Each request runs in a thread of its own: the browser tests keep a loop running in the main one."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            response = await self._transport.handle_async_request(request)
            raw = b"".join(
                [chunk async for chunk in response.aiter_raw()]
            )  # still compressed, as the headers say
            return httpx.Response(response.status_code, headers=response.headers, content=raw)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, answer()).result()
