//! A fuzzer of sessions: what correct peers have said is recorded, changed, and said again over real sockets.
//!
//! * [`Session`]: what one peer sends after its handshake; [`record`] makes the corpus;
//! * [`Lane`]: the eight places where sessions are played: agents and servers on each link, clients of each
//!   frontend;
//! * [`mutated`]: the changes, by seed;
//! * [`World`]: a server and agents in this process, which take the sessions, with canaries through them;
//! * [`run`]: plays mutations for a time, and judges.
//!
//! These promises are judged: nothing panics; every byte of the canaries is right; an agent comes back to a server
//! that was mutated; a correct session succeeds after mutated ones; when mutated peers have left, nothing
//! that they held is left; and one that stays gets an answer or an end within the longest time limit.

#![warn(missing_docs)]

mod ears;
mod lane;
mod marks;
mod mend;
mod mutate;
mod peers;
mod play;
mod quic;
mod record;
mod run;
mod session;
mod world;

pub use lane::{Lane, Speech};
pub use mutate::mutated;
pub use peers::Outcome;
pub use play::{Manner, Played};
pub use record::record;
pub use run::{Course, Finding, Tally, judge_recorded, run};
pub use session::{Act, Kept, Session, Step, folder};
pub use world::{Held, World};
