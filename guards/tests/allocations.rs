//! How many allocations each operation makes, and of how many bytes.
//!
//! A bound is exact: what an operation makes above it fails, and so does a whole
//! allocation, or a quarter of the bytes, below it. The crate's documentation
//! says how to read a failure.

use allocation_counter::measure;
use tunnel_guards::destinations::Destinations;
use tunnel_guards::ends::{Connections, Relayed};
use tunnel_guards::packets::PacketStream;
use tunnel_guards::routing::Routing;
use tunnel_guards::wire::Wire;

/// Operations that are measured together.
const OPS: u64 = 200;

/// Above a bound, over all of [`OPS`]: a queue that grows now and then is not
/// what an operation costs.
const NOW_AND_THEN: u64 = OPS / 100;

/// Bytes in a data packet: what Konnectivity's programs and ours put in one.
const PACKET: usize = 32 * 1024;

/// The bound of an operation's allocations.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// How often; growing what is there counts as well.
    count: u64,
    /// Bytes, all allocations together.
    bytes: u64,
}

const NOTHING: Bound = Bound { count: 0, bytes: 0 };

/// The relay's own list of chunks, made when the first one comes and given back
/// when the source is silent, so that idle connections hold nothing. None per
/// chunk.
const FLOW: Bound = Bound { count: 1, bytes: 128 };

/// The same list: a chunk with a pause behind it is a flow of one.
const TURN: Bound = FLOW;

/// The same list. The timer that watches a full sink is kept once it is there.
const BLOCKED: Bound = FLOW;

/// The list of each direction, and nothing for the relay itself.
const CONNECTION: Bound = Bound { count: 2, bytes: 256 };

/// Bytes of a relay in the task of its connection. Every connection has them,
/// idle ones too.
const RELAY_BYTES: usize = 248;

/// The name, in lower case. An address needs none.
const CONNECT_NAME: Bound = Bound { count: 1, bytes: 42 };

/// The target as a text, which grows twice, and the frame.
const WRITE_DIAL: Bound = Bound { count: 3, bytes: 51 };

/// The target as a text.
const READ_DIAL: Bound = Bound { count: 1, bytes: 15 };

/// The address for the message, and the frame.
const WRITE_REPLY: Bound = Bound { count: 2, bytes: 36 };

/// The address.
const READ_REPLY: Bound = Bound { count: 1, bytes: 15 };

/// The protocol and the address.
const READ_DIAL_PACKET: Bound = Bound { count: 2, bytes: 18 + 5 };

/// The frame, which the message is written into: one copy of the bytes.
const WRITE_DATA: Bound = Bound { count: 1, bytes: PACKET as u64 + 18 };

/// The message put together, the one copy of its bytes, and the count of its
/// users.
const READ_FRAMES: Bound = Bound { count: 2, bytes: PACKET as u64 + 58 };

/// The buffer into which HTTP/2 reads three frames, the packet put together
/// ([`READ_FRAMES`]), and a list for its bytes: one copy of ours.
const STREAM_RECEIVE: Bound = Bound { count: 7, bytes: 49_405 };

/// The packet with its bytes, a list on either side of the connection, what
/// HTTP/2 reads three frames into, and the reader's own copy.
const STREAM_SEND: Bound = Bound { count: 10, bytes: 82_423 };

#[test]
fn a_relay_that_flows_allocates_nothing_per_chunk() {
    let mut relayed = Relayed::warm();
    holds("a flow of a thousand chunks of 64 KiB", FLOW, || relayed.flow(1000));
    holds("a chunk with a pause behind it", TURN, || relayed.turns(1));
    holds("a chunk that waits for its sink", BLOCKED, || relayed.blocked(1));
}

#[test]
fn a_connection_costs_its_relay_little() {
    let mut connections = Connections::default();
    holds("a relayed connection", CONNECTION, || connections.one());
    let bytes = connections.relay_bytes();
    assert!(bytes <= RELAY_BYTES, "a relay is {bytes} bytes, {} above its bound", bytes - RELAY_BYTES);
    assert!(bytes * 8 > RELAY_BYTES * 7, "a relay is {bytes} bytes; lower its bound of {RELAY_BYTES}");
}

#[test]
fn a_connect_head_costs_only_a_name() {
    let mut wire = Wire::new(PACKET);
    holds("reading a CONNECT head", NOTHING, || wire.connect_head());
    holds("reading a CONNECT head with a name", CONNECT_NAME, || wire.connect_head_with_name());
}

#[test]
fn dials_and_their_answers_cost_what_they_carry() {
    let mut wire = Wire::new(PACKET);
    holds("writing a dial", WRITE_DIAL, || wire.write_dial());
    holds("reading a dial", READ_DIAL, || wire.read_dial());
    holds("writing an answer", WRITE_REPLY, || wire.write_reply());
    holds("reading an answer", READ_REPLY, || wire.read_reply());
    holds("reading a client's dial packet", READ_DIAL_PACKET, || wire.read_dial_packet());
}

#[test]
fn data_packets_are_not_copied_where_they_need_not_be() {
    let mut wire = Wire::new(PACKET);
    holds("writing a data packet's head", NOTHING, || wire.write_data_head());
    holds("writing a data packet in one piece", WRITE_DATA, || wire.write_data());
    holds("reading a data packet", NOTHING, || wire.read_data());
    holds("reading a data packet of three frames", READ_FRAMES, || wire.read_data_in_frames());
}

#[test]
fn a_packet_stream_allocates_a_fixed_number_of_times_per_packet() {
    let mut stream = PacketStream::warm(PACKET);
    holds("receiving a data packet on a stream", STREAM_RECEIVE, || stream.receive(1));
    holds("sending a data packet on a stream", STREAM_SEND, || stream.send(1));
}

/// A change that made the tables of a thousand agents anew would allocate thousands of times.
#[test]
fn a_change_of_one_agent_does_not_touch_the_others() {
    let mut routing = Routing::warm();
    routing.by_host_of_a_newcomer();
    let made = measure(|| (0..OPS).for_each(|_| routing.by_host_of_a_newcomer()));
    assert!(made.count_total < 100 * OPS, "{} allocations for each", made.count_total / OPS);
}

#[test]
fn routing_allocates_nothing() {
    let mut routing = Routing::warm();
    holds("routing by host", NOTHING, || routing.by_host());
    holds("routing by network", NOTHING, || routing.by_network());
    holds("routing by default", NOTHING, || routing.by_default());
}

#[test]
fn a_decision_about_a_destination_allocates_nothing() {
    let mut destinations = Destinations::new();
    holds("a decision without a file", NOTHING, || destinations.without_a_file());
    holds("a decision of the chart's file", NOTHING, || destinations.of_the_chart());
    holds("a decision about a name's address", NOTHING, || destinations.of_the_chart_with_name());
    holds("a decision of 10,000 rules", NOTHING, || destinations.of_all_rules());
    holds("a decision by identities", NOTHING, || destinations.of_identities());
}

/// Measures an operation that has been done before.
fn holds(what: &str, bound: Bound, mut operation: impl FnMut()) {
    operation();
    let made = measure(|| (0..OPS).for_each(|_| operation()));
    for (of, made, bound, rare, loose) in [
        ("allocations", made.count_total, bound.count, NOW_AND_THEN, OPS),
        ("bytes", made.bytes_total, bound.bytes, bound.bytes * NOW_AND_THEN, bound.bytes * OPS / 4),
    ] {
        let (over, each) = (made.saturating_sub(bound * OPS), average(made));
        assert!(over <= rare, "{what} takes {each} {of}, {} above its bound of {bound}", average(over));
        let under = (bound * OPS).saturating_sub(made);
        assert!(under == 0 || under < loose, "{what} takes {each} {of} now; lower its bound of {bound}");
    }
}

/// Per operation, in hundredths.
fn average(total: u64) -> String {
    let hundredths = (total * 100).div_ceil(OPS);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
