//! The parts of `loadtest siege`.
//!
//! * `besieged` starts server, agents and target, and watches the server;
//! * `api` reviews the agents' tokens;
//! * `canaries` are streams that must not notice anything;
//! * `toll` is what they noticed, as a table, JSON and scores;
//! * `ground` is where attackers find everything, in the words of a command line;
//! * `attack` is what every flood is given, and `floods` lists them. They run in a process of their own, so
//!   that the canaries do not wait for their attackers.

pub(crate) mod api;
pub(crate) mod attack;
pub(crate) mod besieged;
pub(crate) mod canaries;
pub(crate) mod floods;
pub(crate) mod ground;
pub(crate) mod guest;
pub(crate) mod log;
pub(crate) mod toll;
