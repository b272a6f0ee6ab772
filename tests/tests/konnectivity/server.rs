//! A server of ours, with stock agents whose every packet is scripted.

mod agents;
mod dials;
mod packets;
