# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Tokens."""

from __future__ import annotations

from assent.errors import FailedPrecondition
from assent.service.registry import Registry
from assent.service.rings import RingService
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.service.tokens import TokenRecord, Tokens
from assent.v1 import tokens_pb2
from assent.v1.tokens_pb2_grpc import TokensServicer as Base

_UNIX = "unix:"


class TokensServicer(Base):
    """What unprivileged applications show to be lent rings.

    Args:
        registry: Finds cells.
        tokens: Does the work.
        rings: Knows what is lent.
    """

    def __init__(self, registry: Registry, tokens: Tokens, rings: RingService) -> None:
        self._registry = registry
        self._tokens = tokens
        self._rings = rings

    async def Create(  # noqa: N802
        self, request: tokens_pb2.CreateTokenRequest, context: Context
    ) -> tokens_pb2.CreateTokenResponse:
        """Makes a token; only over the unix socket, as all that is secret."""
        if not context.peer().startswith(_UNIX):
            raise FailedPrecondition("tokens are handed out over the unix socket only")
        if request.HasField("cell"):
            local = self._registry.local(translate.cell_ref("cell", request.cell))
        else:
            local = self._registry.only_local()
        record, secret = self._tokens.create(request.uid, local.id, request.lifetime_s)
        return tokens_pb2.CreateTokenResponse(token=self._token(record), secret=secret)

    async def List(  # noqa: N802
        self, request: tokens_pb2.ListTokensRequest, context: Context
    ) -> tokens_pb2.ListTokensResponse:
        """Those that are good; never their secrets."""
        tokens = [self._token(record) for record in self._tokens.all()]
        return tokens_pb2.ListTokensResponse(tokens=tokens)

    async def Revoke(  # noqa: N802
        self, request: tokens_pb2.RevokeTokenRequest, context: Context
    ) -> tokens_pb2.RevokeTokenResponse:
        """From now on a token opens nothing, and what it has opened is taken back."""
        self._tokens.revoke(request.id)
        self._rings.revoke(request.id)
        return tokens_pb2.RevokeTokenResponse()

    def _token(self, record: TokenRecord) -> tokens_pb2.Token:
        return tokens_pb2.Token(
            id=record.id,
            uid=record.uid,
            cell=translate.cell_id(record.cell),
            cell_name=self._registry.local(record.cell).name,
            created_at=record.created_at,
            expires_at=record.expires_at,
            rings=self._rings.rings(record.id),
        )
