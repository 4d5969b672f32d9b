# SPDX-License-Identifier: Apache-2.0
import asyncio

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import AlreadyExists, InvalidArgument, NotFound, RemoteError
from assent.tensor import RefusedError, Regions, TensorError, TensorReceiver, TensorSender
from assent.tensor import regions as regions_module
from assent.tensor.regions import dtype_of, spans_of
from assent.transport.errors import EndedError
from assent.wire.control import ControlTag, Define, Delivery, FlowClass, Tag, Tensor, encode_tags

from .memory_flow import flow_pair

DTYPES = ["|b1", "|i1", "|u1", "<i2", ">i2", "<u4", "<i8", "<f2", "<f4", ">f8", "<c8", "<c16"]


def counted(*shape, dtype="<f4"):
    count = numpy.arange(numpy.prod(shape, dtype=int))
    return (count % 7).astype(dtype).reshape(shape)


def joined(spans):
    return b"".join(bytes(span) for span in spans)


class Ends:
    """A sender and a receiver on one flow."""

    def __init__(self):
        near, far = flow_pair()
        self.near, self.far = near, far
        self.regions = Regions()
        self.sender = TensorSender(near)
        self.receiver = TensorReceiver(far, self.regions)
        self.landed = []

    async def run(self, *sends):
        """Sends while the other end receives; what has become of each send."""

        async def receive():
            async for landed in self.receiver:
                self.landed.append(landed)

        receiving = asyncio.create_task(receive())
        try:
            gathered = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), 20)
            await self.near.finish()
            await asyncio.wait_for(receiving, 20)
        finally:
            receiving.cancel()
        return gathered

    async def announce(self, tensor, after=b"", ref=1):
        """What a peer of any manners may send."""
        await self.near.send([encode_tags([ControlTag(Tag.TENSOR, ref, tensor.to_body())]), after])


# ---- arrays as pieces of memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_contiguous_array_is_one_piece_and_no_copy(dtype):
    array = counted(3, 4, dtype=dtype)
    (span,) = spans_of(array)
    assert bytes(span) == array.tobytes()
    assert numpy.shares_memory(span, array)


@pytest.mark.parametrize(
    ("view", "pieces"),
    [
        (lambda a: a[2:5], 1),
        (lambda a: a[:, 1:3], 6),
        (lambda a: a[::2], 3),
        (lambda a: a[::-1], 6),
        (lambda a: a[:, :, 1:2], 24),
        (lambda a: a[0, 0, 0], 1),
        (lambda a: a[1], 1),
        (lambda a: a.T, 120),
        (lambda a: a[:, 1:2].reshape(6, 5), 6),
        (lambda a: numpy.broadcast_to(a[0], (3, 4, 5)), 3),
    ],
)
def test_a_view_lies_in_pieces_that_are_not_copied(view, pieces):
    whole = counted(6, 4, 5)
    array = view(whole)
    spans = spans_of(numpy.asarray(array))
    assert joined(spans) == array.tobytes()
    assert len(spans) == pieces
    if isinstance(array, numpy.ndarray):
        assert all(numpy.shares_memory(span, whole) for span in spans)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 2)])
def test_an_empty_array_has_no_pieces(shape):
    assert spans_of(numpy.zeros(shape)) == []


@settings(deadline=None)
@given(st.data())
def test_the_pieces_of_any_view_are_its_bytes(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = counted(*shape, dtype=data.draw(st.sampled_from(DTYPES)))
    steps = st.sampled_from([1, 1, 2, -1])
    array = array[tuple(slice(None, None, data.draw(steps)) for _ in shape)]
    array = array.transpose(data.draw(st.permutations(range(len(shape)))))
    assert joined(spans_of(array)) == array.tobytes()


def test_an_array_in_too_many_pieces_is_refused(monkeypatch):
    monkeypatch.setattr(regions_module, "SPANS_MAX", 10)
    assert len(spans_of(counted(10, 4)[:, :2])) == 10
    with pytest.raises(InvalidArgument, match="contiguous copy"):
        spans_of(counted(11, 4)[:, :2])


@pytest.mark.parametrize(
    "array",
    [
        numpy.zeros(2, dtype=object),
        numpy.zeros(2, dtype="U3"),
        numpy.zeros(2, dtype="M8[s]"),
        numpy.zeros(2, dtype=[("a", "i4")]),
    ],
)
def test_only_plain_numbers_travel(array):
    for ask in (dtype_of, spans_of):
        with pytest.raises(InvalidArgument, match="dtype"):
            ask(array)


# ---- registration


def test_a_region_is_the_array_s_own_memory():
    array, regions = counted(2, 3), Regions()
    region = regions.register("grad", array)
    region.memory[:4] = numpy.float32(9).tobytes()
    assert array[0, 0] == 9
    assert regions.find("grad") is region
    assert regions.names() == ["grad"]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (counted(4, 4).T, "contiguous"),
        (counted(4, 4)[::2], "contiguous"),
        (numpy.broadcast_to(counted(4), (2, 4)), "contiguous"),
        (numpy.zeros(2, dtype=object), "dtype"),
    ],
)
def test_an_array_that_cannot_be_written_in_place_is_no_region(array, why):
    regions = Regions()
    with pytest.raises(InvalidArgument, match=why):
        regions.register("grad", array)
    assert regions.names() == []


def test_a_read_only_array_is_no_region():
    array = counted(4)
    array.flags.writeable = False
    with pytest.raises(InvalidArgument, match="writable"):
        Regions().register("grad", array)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
def test_a_region_needs_a_name_that_a_tag_can_carry(name):
    with pytest.raises(InvalidArgument, match="name"):
        Regions().register(name, counted(4))


def test_a_name_is_given_once_until_it_is_taken_back():
    regions = Regions()
    regions.register("grad", counted(4))
    with pytest.raises(AlreadyExists, match="grad"):
        regions.register("grad", counted(4))
    regions.unregister("grad")
    with pytest.raises(NotFound, match="grad"):
        regions.unregister("grad")
    with pytest.raises(NotFound, match="grad"):
        regions.find("grad")
    regions.register("grad", counted(4))


# ---- over a flow


@pytest.mark.parametrize("dtype", DTYPES)
async def test_an_array_lands_in_its_region(dtype):
    ends, target = Ends(), numpy.zeros((30, 7), dtype)
    ends.regions.register("grad", target)
    source = counted(30, 7, dtype=dtype)
    assert await ends.run(ends.sender.send("grad", source)) == [None]
    assert (target == source).all()
    (landed,) = ends.landed
    assert (landed.region.name, landed.offset, landed.size) == ("grad", 0, source.nbytes)


async def test_what_is_sent_is_the_sender_s_own_memory():
    ends, source = Ends(), counted(8, 8)
    ends.regions.register("grad", numpy.zeros((8, 4), "<f4"))
    await ends.run(ends.sender.send("grad", source[:, ::2]))
    ends.regions.unregister("grad")
    (message,) = ends.near.sent
    assert len(message) == 1 + 32
    assert all(numpy.shares_memory(span, source) for span in message[1:])


async def test_rows_land_where_they_belong():
    ends, target = Ends(), numpy.zeros((10, 3), "<i4")
    ends.regions.register("table", target)
    rows = counted(2, 3, dtype="<i4") + 1
    assert await ends.run(
        ends.sender.send("table", rows, shape=(10, 3), row=4),
        ends.sender.send("table", rows[:1], shape=(10, 3), row=9),
    ) == [None, None]
    assert (target[4:6] == rows).all()
    assert (target[9] == rows[0]).all()
    assert not target[:4].any()
    assert not target[6:9].any()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5, 0)])
async def test_small_shapes_and_none_at_all_land(shape):
    ends, target = Ends(), numpy.zeros(shape, "<f8")
    ends.regions.register("x", target)
    source = numpy.full(shape, 3.5)
    assert await ends.run(ends.sender.send("x", source)) == [None]
    assert (target == source).all()
    assert ends.landed[0].size == source.nbytes


async def test_many_under_way_land_in_their_order():
    ends, target = Ends(), numpy.zeros(100, "<i4")
    ends.regions.register("x", target)
    sends = [ends.sender.send("x", numpy.full(100, n, "<i4")) for n in range(20)]
    assert await ends.run(*sends) == [None] * 20
    assert (target == 19).all()
    assert len(ends.landed) == 20


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("other", counted(4), "no region 'other'"),
        ("grad", counted(4, dtype="<f8"), "<f4 here, not <f8"),
        ("grad", counted(5), r"\(4,\) here, not \(5,\)"),
        ("grad", counted(2, 2), r"\(4,\) here, not \(2, 2\)"),
        ("grad", counted(0), r"\(4,\) here, not \(0,\)"),
    ],
)
async def test_what_does_not_fit_is_refused_and_nothing_is_written(name, source, why):
    ends, target = Ends(), numpy.full(4, 7, "<f4")
    ends.regions.register("grad", target)
    good = counted(4)
    refused, sent = await ends.run(ends.sender.send(name, source), ends.sender.send("grad", good))
    assert isinstance(refused, RefusedError)
    with pytest.raises(RefusedError, match=why):
        raise refused
    assert sent is None, "the next one is not affected"
    assert (target == good).all()
    assert len(ends.landed) == 1


async def test_a_refused_array_leaves_the_region_as_it_was():
    ends, target = Ends(), numpy.full(4, 7, "<f4")
    ends.regions.register("grad", target)
    (refused,) = await ends.run(ends.sender.send("grad", counted(8)))
    assert isinstance(refused, RefusedError)
    assert (target == 7).all()
    assert ends.landed == []


@pytest.mark.parametrize(
    ("shape", "row"),
    [((10, 3), 9), ((10, 3), -1), ((10, 4), 0), ((10,), 0), ((), 0), ((2, 3), 1), ((1, 3), 0)],
)
async def test_rows_that_a_region_cannot_have_are_the_caller_s_mistake(shape, row):
    ends = Ends()
    with pytest.raises(InvalidArgument, match=r"shape|row"):
        await ends.sender.send("table", counted(2, 3), shape=shape, row=row)
    assert ends.near.sent == []


async def test_a_cancelled_send_does_not_take_the_next_one_s_answer():
    ends, target = Ends(), numpy.zeros(4, "<f4")
    ends.regions.register("grad", target)
    cancelled = asyncio.create_task(ends.sender.send("other", counted(4)))
    await ends.far.await_one()
    cancelled.cancel()
    assert await ends.run(ends.sender.send("grad", counted(4))) == [None]
    assert (target == counted(4)).all()


async def test_a_cancelled_receive_loses_nothing():
    ends, target = Ends(), numpy.zeros(4, "<f4")
    ends.regions.register("grad", target)
    waiting = asyncio.create_task(ends.receiver.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    first, started = ends.far.recv_some, asyncio.Event()

    async def hang(buffer):
        if len(buffer) == target.nbytes:
            started.set()
            await asyncio.Event().wait()
        return await first(buffer)

    ends.far.recv_some = hang
    sending = asyncio.create_task(ends.sender.send("grad", counted(4)))
    waiting = asyncio.create_task(ends.receiver.receive())
    await asyncio.wait_for(started.wait(), 20)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    ends.far.recv_some = first
    assert (await asyncio.wait_for(ends.receiver.receive(), 20)).size == 16
    await asyncio.wait_for(sending, 20)
    assert (target == counted(4)).all()


# ---- peers that do not keep to it

FOUR = Tensor("grad", "<f4", (4,), 0, 16)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (b"", "0 bytes, not the 16"),
        (bytes(15), "15 bytes, not the 16"),
        (bytes(17), "more bytes than the 16"),
        (bytes(1 << 20), "more bytes than the 16"),
    ],
)
async def test_another_number_of_bytes_than_announced_is_a_breach(after, why):
    ends = Ends()
    ends.regions.register("grad", numpy.zeros(4, "<f4"))
    await ends.announce(FOUR, after)
    with pytest.raises(TensorError, match=why):
        await ends.receiver.receive()
    assert ends.far.sent == []


async def test_bytes_of_an_empty_part_are_a_breach():
    ends, target = Ends(), numpy.full(4, 7, "<f4")
    ends.regions.register("grad", target)
    await ends.announce(Tensor("grad", "<f4", (4,), 8, 0), bytes(1))
    with pytest.raises(TensorError, match="more bytes"):
        await ends.receiver.receive()
    assert (target == 7).all()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        bytes(63),
        bytes(64),
        b"\x00\x0a\xff\xff" + bytes(60),
        b"\x00\x0a\x05\x00" + bytes(60),
        b"\x00\x0a\x05\x00" + bytes(2000),
        b"\x0f\xff\x00\x00" + bytes(60),
        encode_tags([ControlTag(Tag.TENSOR, 1, {"name": "grad"})]),
        encode_tags(
            [
                ControlTag(
                    Tag.DEFINE,
                    1,
                    Define(1, Delivery.ORDERED, FlowClass.TENSOR, 1500).to_body(),
                )
            ]
        ),
        encode_tags([ControlTag(Tag.TENSOR, 1, {**FOUR.to_body(), "accepted": True})]),
    ],
)
async def test_a_message_that_announces_nothing_is_a_breach(message):
    ends, target = Ends(), numpy.full(4, 7, "<f4")
    ends.regions.register("grad", target)
    await ends.near.send(message)
    with pytest.raises(RemoteError):
        await ends.receiver.receive()
    assert (target == 7).all()
    assert ends.far.sent == []


@pytest.mark.parametrize("ref", [0, 2])
async def test_an_answer_to_nothing_is_a_breach(ref):
    ends = Ends()
    body = {**FOUR.to_body(), "accepted": True}
    await ends.far.send(encode_tags([ControlTag(Tag.TENSOR, ref, body)]))
    sending = ends.sender.send("grad", counted(4))
    if ref:
        with pytest.raises(TensorError, match="not asked"):
            await sending
    else:
        await ends.far.finish()
        with pytest.raises(EndedError):
            await sending


async def test_a_question_where_an_answer_is_due_is_a_breach():
    ends = Ends()
    await ends.far.send(encode_tags([ControlTag(Tag.TENSOR, 1, FOUR.to_body())]))
    with pytest.raises(TensorError, match="answer is due"):
        await ends.sender.send("grad", counted(4))


async def test_a_long_announcement_is_read_in_two_parts():
    ends, shape = Ends(), (1, 2, 1, 3) * 4
    target = numpy.zeros(shape, "<u2")
    ends.regions.register("n" * 255, target)
    source = counted(*shape, dtype="<u2")
    assert await ends.run(ends.sender.send("n" * 255, source)) == [None]
    assert (target == source).all()
    (message,) = ends.near.sent
    assert len(message[0]) > 256


async def test_a_refusal_fits_its_tag_whatever_the_shapes():
    ends = Ends()
    ends.regions.register("n" * 255, numpy.zeros((1,) * 16, "<u2"))
    (refused,) = await ends.run(
        ends.sender.send("n" * 255, counted(*(1,) * 15 + (9,), dtype="<u2"))
    )
    assert isinstance(refused, RefusedError)
