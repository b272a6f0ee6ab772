//! Fleets: thousands of agents, and a server of ours for them.
//!
//! The agents are the real agent's code, with its waits and its links, but without listeners: several
//! thousand in a process. They answer dials themselves. A fleet is spread over processes because of the limit
//! of open files. Unlike the rest of this program, this speaks the links of our own server.

pub(crate) mod args;
pub(crate) mod crew;
mod echo;
pub(crate) mod events;
pub(crate) mod processes;
pub(crate) mod room;
pub(crate) mod streams;
