//! An established connection, until it ends.
//!
//! Most connections of a server are in this state and idle, so the fields of [`Carried`] are their
//! cost. The state of earlier stages, above all the dial's, is dropped, and later ones are boxed.

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
    /// The connection of a client that was told of it.
    pub(super) fn new(client: C, dialed: Dialed, mut record: Record) -> Box<Self> {
        record.established();
        Box::new(Self { client, counted: dialed.stream, record })
    }

    /// Relays until both directions have ended or the drain is killed, and then waits until the
    /// agent has all bytes of the client.
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
