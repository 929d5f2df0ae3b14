//! preshard: a sharding proxy for Redis and Valkey.

pub mod config;
pub mod ids;
pub mod topology;
