# SPDX-License-Identifier: Apache-2.0
"""Where domain errors become gRPC statuses, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

log = logging.getLogger(__name__)

_STATUS: Final[tuple[tuple[type[Exception], grpc.StatusCode], ...]] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
_OURS: Final = "/assent.v1."

if TYPE_CHECKING:  # gRPC's class is generic for type checkers only
    Handler = grpc.RpcMethodHandler[Any, Any]


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and the message that a client gets to see.

    An error that is not of the domain is a bug or a broken system: its text may say more than a
    client should know, so it goes to the log only.
    """
    for kind, code in _STATUS:
        if isinstance(error, kind):
            return code, str(error)
    return grpc.StatusCode.INTERNAL, "internal error: see the daemon's log"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the assent API; health and reflection keep their own ways."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Gives back the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _wrap_unary(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                _wrap_unary(method, handler.stream_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _wrap_stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                _wrap_stream(method, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler


def _wrap_unary(method: str, call: Any) -> Any:
    async def wrapped(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await call(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(method, error, context)

    return wrapped


def _wrap_stream(method: str, call: Any) -> Any:
    async def wrapped(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            async for response in call(request, context):
                yield response
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(method, error, context)

    return wrapped


async def _abort(
    method: str, error: Exception, context: grpc.aio.ServicerContext[Any, Any]
) -> NoReturn:
    code, message = status_of(error)
    if code is grpc.StatusCode.INTERNAL:
        log.error("call failed", extra={"method": method}, exc_info=error)
    else:
        log.info("call refused", extra={"method": method, "status": code.name, "reason": message})
    await context.abort(code, message)
