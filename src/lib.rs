//! preshard: a sharding proxy for Redis and Valkey.

pub mod command;
pub mod ids;
pub mod metrics;
pub mod resp;
pub mod topology;
