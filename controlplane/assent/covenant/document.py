# SPDX-License-Identifier: Apache-2.0
"""The covenant as a document: what is signed, and the file that anybody can check offline.

Every signature has a domain of its own, so that one made for one purpose is worth nothing for
another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from assent.covenant.fields import opened, read_one
from assent.covenant.payloads import CovenantObject, Rotation
from assent.errors import InvalidArgument, RemoteError
from assent.identity.keys import SignatureError, verify
from assent.wire import cbor

FORMAT: Final = "assent-covenant-v1"
EXPORT_MAX: Final = 1024 * 1024
EXPORT_ITEMS_MAX: Final = 65_536
ACCEPT_LABEL: Final = b"assent-covenant-accept-v1\0"
BIND_LABEL: Final = b"assent-covenant-bind-v1\0"
ROTATE_LABEL: Final = b"assent-covenant-rotate-v1\0"

Sign = Callable[[bytes], bytes]
"""Signs a message with Ed25519; 64 bytes."""


def confirmation_bytes(terms_hash: bytes) -> bytes:
    """What an ACCEPT's signature is made over: a label, then the hash of the terms."""
    return ACCEPT_LABEL + terms_hash


def object_hash(covenant: CovenantObject) -> bytes:
    """SHA-256 of the object's canonical CBOR with every bind_signature empty, 32 bytes."""
    return covenant.digest


def bind_bytes(covenant: CovenantObject) -> bytes:
    """What a bind signature is made over: a label, then the object's hash."""
    return BIND_LABEL + object_hash(covenant)


def rotation_bytes(
    agent_id: UUID, old_key: bytes, new_key: bytes, covenant_id: int, version: int
) -> bytes:
    """What both signatures of a rotation are made over.

    A label, the agent's 16 bytes, its old key, its new one, the covenant's id and the version from
    which on the new one holds (4 bytes each, big-endian).
    """
    where = covenant_id.to_bytes(4, "big") + version.to_bytes(4, "big")
    return ROTATE_LABEL + agent_id.bytes + old_key + new_key + where


def make_rotation(
    agent_id: UUID,
    old_key: bytes,
    new_key: bytes,
    covenant_id: int,
    version: int,
    *,
    old_sign: Sign,
    new_sign: Sign,
) -> Rotation:
    """A change of an agent's key, signed by both.

    Args:
        agent_id: Whose.
        old_key: Its public key so far.
        new_key: Its public key from now on.
        covenant_id: In which covenant.
        version: From which version on.
        old_sign: Signs with the old key.
        new_sign: Signs with the new one.

    Raises:
        InvalidArgument: A key or a signature does not have its length.
    """
    message = rotation_bytes(agent_id, old_key, new_key, covenant_id, version)
    return Rotation(agent_id, new_key, new_sign(message), old_sign(message))


def verify_bind(covenant: CovenantObject, agent_id: UUID, signature: bytes) -> None:
    """Checks one agent's signature over a covenant object.

    Raises:
        SignatureError: The agent is none of the object's, or it did not sign this.
    """
    for agent in covenant.agents:
        if agent.agent_id == agent_id:
            verify(agent.public_key, bind_bytes(covenant), signature)
            return
    raise SignatureError("the agent is none of the covenant's")


def verify_rotation(rotation: Rotation, old_key: bytes, covenant_id: int, version: int) -> None:
    """Checks that the owners of an agent's old key and of its new one agree to the change.

    Raises:
        SignatureError: One of them did not sign this.
    """
    message = rotation_bytes(rotation.agent_id, old_key, rotation.public_key, covenant_id, version)
    verify(old_key, message, rotation.authorization)
    verify(rotation.public_key, message, rotation.proof)


class VerifyError(RemoteError):
    """An exported covenant that is not what its parties agreed to.

    Attributes:
        version: Of the covenant object; 0: the file as a whole.
        agent_id: Whose signature or key it is about, if one's.
    """

    def __init__(self, problem: str, version: int = 0, agent_id: UUID | None = None) -> None:
        where = f"version {version}: " if version else ""
        whose = f"agent {agent_id}: " if agent_id else ""
        super().__init__(f"{where}{whose}{problem}")
        self.version = version
        self.agent_id = agent_id


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """One version of a covenant, with what proves it.

    Attributes:
        covenant_object: With every agent's bind signature.
        rotation: The change of a key that came with it.
    """

    covenant_object: CovenantObject
    rotation: Rotation | None = None

    def to_body(self) -> dict[str, object]:
        """The version as a CBOR map."""
        body: dict[str, object] = {"object": self.covenant_object.to_body()}
        if self.rotation is not None:
            body["rotation"] = self.rotation.to_body()
        return body


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked of one version.

    Attributes:
        covenant_object: What was agreed to.
        terms_hash: SHA-256 of its terms.
        object_hash: What its agents have signed.
        rotated: The agent whose key changed with it.
    """

    covenant_object: CovenantObject
    terms_hash: bytes
    object_hash: bytes
    rotated: UUID | None


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify_export` has found to be true.

    Attributes:
        covenant_id: 32 bits.
        versions: From 1, without a gap; the last one is the newest.
        sha256: Of the file.
    """

    covenant_id: int
    versions: tuple[Verified, ...]
    sha256: bytes


def export(versions: Sequence[SignedVersion]) -> bytes:
    """A covenant's history as a file that anybody can check (`verify_export`).

    Raises:
        InvalidArgument: It is larger than 1 MiB, or nests too deep.
    """
    body = {"format": FORMAT, "versions": [version.to_body() for version in versions]}
    return cbor.encode(body, EXPORT_MAX, EXPORT_ITEMS_MAX)


def verify_export(raw: bytes) -> Report:
    """Checks an exported covenant: form, versions, keys, and every signature.

    Versions are 1, 2, 3, ... of one covenant; the same agents in the same roles have signed each;
    and an agent's key is that of the version before, or the change is signed by both keys. Who the
    owners of the keys are is not in the file: compare `Report` with what you know of them.

    Raises:
        VerifyError: One of these does not hold; it names the version, and the agent if it is one's
            fault.
    """
    report: list[Verified] = []
    before: CovenantObject | None = None
    for number, (covenant, rotation) in enumerate(_read_export(raw), 1):
        if covenant.version != number:
            raise VerifyError(f"is where version {number} should be", covenant.version)
        if before is None:
            if rotation is not None:
                raise VerifyError("a first version has no key to change", number)
        else:
            _verify_succession(before, covenant, rotation)
        for agent in covenant.agents:
            if not agent.bind_signature:
                raise VerifyError("has not signed", number, agent.agent_id)
            try:
                verify(agent.public_key, bind_bytes(covenant), agent.bind_signature)
            except SignatureError:
                raise VerifyError("did not sign this", number, agent.agent_id) from None
        report.append(
            Verified(
                covenant,
                covenant.terms.digest,
                covenant.digest,
                rotation.agent_id if rotation else None,
            )
        )
        before = covenant
    if before is None:
        raise VerifyError("there is no version in it")
    return Report(before.id, tuple(report), hashlib.sha256(raw).digest())


def _read_export(raw: bytes) -> list[tuple[CovenantObject, Rotation | None]]:
    try:
        body = opened(cbor.decode(raw, EXPORT_MAX, EXPORT_ITEMS_MAX))
    except (cbor.CborError, InvalidArgument) as refusal:
        raise VerifyError(f"not an exported covenant: {refusal}") from None
    if body.pop("format", None) != FORMAT:
        raise VerifyError(f"its format is not {FORMAT}")
    versions = body.pop("versions", None)
    if type(versions) is not list or body:
        raise VerifyError("it holds a list of versions, and nothing else")
    read = []
    for number, version in enumerate(versions, 1):
        try:
            left = opened(version)
            covenant = read_one("object", CovenantObject, left.pop("object", None))
            rotation = read_one("rotation", Rotation, left.pop("rotation")) if left else None
        except (InvalidArgument, KeyError) as refusal:
            raise VerifyError(f"is malformed: {refusal}", number) from None
        if left:
            raise VerifyError("holds more than an object and a rotation", number)
        read.append((covenant, rotation))
    return read


def _verify_succession(
    before: CovenantObject, covenant: CovenantObject, rotation: Rotation | None
) -> None:
    """Checks that a version follows the one before: same agents, and same keys but one."""
    number = covenant.version
    if covenant.id != before.id:
        raise VerifyError("is of another covenant", number)
    if covenant.creation_time < before.creation_time:
        raise VerifyError("is older than the version before", number)
    if len(covenant.agents) != len(before.agents):
        raise VerifyError("has other agents than the version before", number)
    for old, new in zip(before.agents, covenant.agents, strict=True):
        if (old.agent_id, old.role) != (new.agent_id, new.role):
            raise VerifyError("has other agents than the version before", number)
        rotates = rotation is not None and rotation.agent_id == old.agent_id
        if rotation is not None and rotates:
            if rotation.public_key != new.public_key or new.public_key == old.public_key:
                raise VerifyError("the change is to another key", number, old.agent_id)
            try:
                verify_rotation(rotation, old.public_key, covenant.id, number)
            except SignatureError:
                raise VerifyError(
                    "the change of its key is not signed by both keys", number, old.agent_id
                ) from None
        elif old.public_key != new.public_key:
            raise VerifyError("its key has changed, and nothing says so", number, old.agent_id)
    if rotation is not None and all(rotation.agent_id != one.agent_id for one in before.agents):
        raise VerifyError("changes the key of an agent that has no part in it", number)
