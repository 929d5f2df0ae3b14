//! A simulation of moves.

pub(super) use super::copy::Copy;
