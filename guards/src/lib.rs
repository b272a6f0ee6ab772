//! Bounds on what connections cost, for the pieces that need no socket: the
//! relay, the CONNECT head, the dial, the policy of destinations, Konnectivity's
//! packets, routing.
//!
//! Time is not measured here, so the guards say the same on a busy machine as
//! on an idle one:
//!
//! * `tests/allocations.rs`, with `cargo test`: allocations per operation, and
//!   their bytes;
//! * `benches/instructions.rs`, with `cargo bench -p tunnel-guards`: instructions
//!   per operation of the dist profile, counted by valgrind, which has to be
//!   installed. `-- relay` after it runs those with that in their name.
//!
//! This library has the operations, on the public interfaces of the crates that
//! are guarded. Cryptography and the kernel are not in them.
//!
//! # When a guard fails
//!
//! It names the operation and says by how much it is off.
//!
//! *More than the bound.* Find out where from: `callgrind_annotate` reads the
//! profile that the instructions' guard leaves as `callgrind.<operation>` in
//! `target/tmp`, and shows the functions, most expensive first; do the same with
//! the commit before, and compare. Allocations are in it as well, as callers of
//! `malloc`. If the change is worth what it costs, move the bound, and say in
//! the commit why it is worth it.
//!
//! *Less than the bound.* A gain: move the bound with it, so that it is kept. Of
//! instructions it is only said, because another processor may take fewer.
//!
//! *Instructions of everything, by a little.* A new compiler, a dependency or
//! another processor. Move the figures in a commit that does nothing else.
//!
//! To move a bound is to change its constant to what the failure says.

#![warn(missing_docs)]
#![expect(
    clippy::unwrap_used,
    reason = "a guard that cannot set up its world has to stop, and says where it was"
)]

pub mod destinations;
pub mod ends;
pub mod packets;
pub mod routing;
pub mod wire;
