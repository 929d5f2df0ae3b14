//! A simulation of moves.

mod client;
mod copy;
mod faults;
mod judge;
mod node;
mod play;
mod proxy;
mod store;
mod tests;
mod wire;
mod world;

pub(super) use copy::Copy;
