//! Makes the corpus: correct peers, whose words are taken down between them and TLS.
//!
//! On QUIC and on HTTP/1 there is nothing between messages and the connection, so these sessions are the
//! messages themselves.

mod agents;
mod clients;
mod servers;
mod tape;

use anyhow::Context as _;
use tokio::time::{Duration, timeout};

use self::tape::{Tap, Tape};
use crate::lane::Lane;
use crate::peers::Opened;
use crate::session::{Kept, Session, Step, folder};
use crate::world::World;

/// Time for one recording.
const LIMIT: Duration = Duration::from_secs(30);

/// The course of each recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// A connection is dialled, carries bytes in both directions, and ends.
    Serves,
    /// A dial is refused, and all notices of the control stream are given.
    Refuses,
    /// All that the dialling side has to say comes with the dial, its end included.
    AtOnce,
}

impl Story {
    const ALL: [Self; 3] = [Self::Serves, Self::Refuses, Self::AtOnce];

    /// Libraries of HTTP/2 do not say everything at once.
    const fn is_of(self, lane: Lane) -> bool {
        !matches!(self, Self::AtOnce) || matches!(lane, Lane::ServerQuic | Lane::ClientConnect)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Serves => "serves",
            Self::Refuses => "refuses",
            Self::AtOnce => "at-once",
        }
    }

    /// The end of the dial of an agent that is played.
    fn expect(self, lane: Lane) -> Option<String> {
        let words = match self {
            Self::Serves | Self::AtOnce => agents::SAYS,
            Self::Refuses => agents::REFUSES,
        };
        lane.served().map(|_| words.to_owned())
    }
}

/// Records the sessions of all lanes into the corpus. Returns how many.
///
/// # Errors
/// When a peer or a file fails.
pub async fn record(world: &World) -> anyhow::Result<usize> {
    let mut recorded = 0;
    for lane in Lane::ALL {
        let folder = folder(Kept::Recorded, lane);
        std::fs::create_dir_all(&folder)?;
        for story in Story::ALL.into_iter().filter(|story| story.is_of(lane)) {
            let name = story.name().to_owned();
            let taken = timeout(LIMIT, Box::pin(steps(world, lane, story))).await;
            let steps = taken.with_context(|| format!("{lane} {name}"))??;
            let session = Session { name, expect: story.expect(lane), steps };
            std::fs::write(folder.join(&session.name), session.to_string())?;
            recorded += 1;
        }
    }
    Ok(recorded)
}

async fn steps(world: &World, lane: Lane, story: Story) -> anyhow::Result<Vec<Step>> {
    match lane {
        Lane::AgentQuic => return agents::on_quic(lane, story),
        Lane::ServerQuic => return servers::on_quic(story),
        Lane::ClientConnect => return Ok(clients::connect(story)),
        Lane::AgentH2
        | Lane::AgentKonnectivity
        | Lane::ServerH2
        | Lane::ServerKonnectivity
        | Lane::ClientGrpc => {}
    }
    let tape = Tape::new(lane, world.marks.clone());
    let Opened::Bytes(io) = world.open(lane, false).await? else { anyhow::bail!("not on TCP") };
    let tap = Tap::new(io, tape.clone());
    match lane {
        Lane::AgentH2 => Box::pin(agents::on_h2(world, lane, tap, story)).await?,
        Lane::AgentKonnectivity => Box::pin(agents::on_konnectivity(world, lane, tap, story)).await?,
        Lane::ServerH2 => Box::pin(servers::on_h2(tap, story)).await?,
        Lane::ServerKonnectivity => Box::pin(servers::on_konnectivity(tap, story)).await?,
        Lane::ClientGrpc => Box::pin(clients::grpc(tap, story)).await?,
        Lane::AgentQuic | Lane::ServerQuic | Lane::ClientConnect => {}
    }
    Ok(tape.steps())
}
