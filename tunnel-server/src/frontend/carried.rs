//! A connection of which client and target know, for as long as it lasts.
//!
//! Most of a server's connections are in this state and idle, so what one costs
//! is what is in here: everything that came before, the dial above all, has been
//! dropped by then, and what may come after is boxed.

use std::sync::Arc;

use tunnel::duplex::{Abort, Duplex};
use tunnel::relay::relay;

use super::record::Record;
use super::{HOLD, settle};
use crate::dial::{CountedStream, Dialed};

/// A client and the stream that carries its connection.
pub(super) struct Carried<C> {
    client: C,
    counted: CountedStream,
    record: Record,
}

impl<C: Duplex> Carried<C> {
    /// The client was told that it is connected.
    pub(super) fn new(client: C, dialed: Dialed, mut record: Record) -> Box<Self> {
        record.established();
        // The record has the agent.
        Box::new(Self { client, counted: dialed.stream, record })
    }

    /// Relays until both directions are over or the drain kills, and then stays
    /// until the agent has all that the client sent.
    pub(super) async fn run(mut self: Box<Self>) {
        let Self { client, counted, record } = &mut *self;
        let Record { server, kind, moved, .. } = record;
        let meter = server.metrics.meter(*kind, counted.stream.link());
        let ending = tokio::select! {
            biased;
            () = server.drain.killed() => return client.abort(Abort::Now),
            ending = relay(client, &mut counted.stream, Some(HOLD), meter, moved) => ending,
        };
        record.ended(ending);
        Box::pin(self.leave()).await;
    }

    async fn leave(self: Box<Self>) {
        let Self { client, counted, record } = *self;
        let server = Arc::clone(&record.server);
        drop((record, client));
        settle(counted, &server.drain).await;
    }
}
